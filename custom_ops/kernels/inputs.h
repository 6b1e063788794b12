// x in the form that each kind of kernel wants, and the work shared between threads; internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_INPUTS_H_
#define KERAS_PRUNE_KERNELS_INPUTS_H_

#include "kernel.h"

namespace keras_prune {

// Each for kernels of one Input; there are kept weights and batch rows.
void ForwardRows(const FcLayout* layout, const FcCall& call);
void ForwardInt8Rows(const FcLayout* layout, const FcCall& call);
void ForwardTiles(const FcLayout* layout, const FcCall& call);

// What rows without weights give, in all rows: layouts do not list such rows, so that their size follows the packed bytes
// and not the number of rows that the header claims.
void FillRows(uint32_t rows, const FcCall& call);

// The workspace that they need.
uint64_t Int8RowsBytes(const FcLayout* layout, size_t batch);
uint64_t TilesBytes(const FcLayout* layout, size_t batch, int num_threads);

// Floats from one column of a tile of `count` batch rows to the next: the last rows of a batch may be few.
size_t TileStride(const FcKernel& kernel, size_t count);

// Runs all parts of a layout on these rows, shared between the workers.
void ForwardParts(const FcLayout* layout, const RowBlock& rows, Workers* workers);

// One row, symmetrically: values[i] is x[i] / scale rounded to the nearest, halves away from zero, within -127 to 127;
// zeros from `size` to `stride`. A scale of 0 asks for the largest |x| / 127; scales below 2^-126 become that. Returns the
// scale: NaN when a value is not finite (so are all results of the row then), 0 for a row of zeros.
float QuantizeRow(const float* x, size_t size, size_t stride, float scale, int8_t* values);

// The same with the function of the kernel's instruction set, to the next multiple of kAlignment.
float QuantizeFor(const FcKernel& kernel, const float* x, size_t size, float scale, int8_t* values);

// Makes float32 values of a tile what Input::kInt8Tile wants, and fills `scales`, at least rows.stride.
void QuantizeTile(const FcLayout* layout, float x_scale, float* tile, float* scales, const RowBlock& rows);

// Results of a batch row that is not finite are NaN, also those of weights of which nothing is kept.
void FillIfNan(float scale, size_t size, float* y);

// tile[col * width + b] = x[b * stride + col] for b < count, zero up to `width`.
void LoadTile(const float* x, size_t count, size_t stride, size_t cols, size_t width, float* tile);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_INPUTS_H_
