// Int8 activations on tiles (tile.h): the whole numbers that x and W are quantized to, multiplied as float32.
//
// float32 holds whole numbers up to 2^24, and so a row's sums are exact, in any order, as long as 127 times the sum of
// its |w| stays within them: a row has room for 1040 weights of 127, or for 3300 of 40. The bits are those of all int8
// kernels. Longer rows are for the kernels that take rows of x.
//
// By count, bytes gain nothing with AVX2: for 32 batch rows a kept weight takes 4 multiplications as float32; as 16 bits
// 2 shuffles (`pmaddwd` wants the values of two columns side by side), 2 multiplications and 2 additions; as 8 bits 6.
//
// Measured on a core of a shared Zen 4, AVX2, as a share of the float32 kernel's time on tiles, and in brackets of
// s8_fc_quads's, at batch 16, 32 and 64: LeNet fc1 1.13 (.83), 1.18 (.70), 1.18 (.68); AlexNet fc6 1.03 (.77), 1.01 (.59),
// 1.02 (.60); VGG fc6 1.03 (.52), 1.00 (.38), 1.14 (.45); 1x1 convolutions of 64x32 1.25, 128x128 1.24, 256x256 1.15,
// 512x512 1.09. What is more than 1 are x, which is quantized, and results, which are scaled. Both in the tile take .7 of
// the time that they took apart (x to bytes row by row, results in y) in the first of these convolutions, .93 in the last.
#ifndef KERAS_PRUNE_KERNELS_S8_FC_TILE_H_
#define KERAS_PRUNE_KERNELS_S8_FC_TILE_H_

#include <string.h>

#include "int8.h"
#include "tile.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

constexpr uint64_t kMostExact = (uint64_t{1} << 24) / 127;  // of a row's |w|

// Whether float32 holds the sums of all rows.
inline bool SumsAreExact(const PackedView& packed, const Int8Codebook& codebook) {
  uint64_t sum = 0;
  uint32_t of = UINT32_MAX;
  bool exact = true;
  VisitKept(packed, [&](uint32_t row, uint32_t, uint32_t code, uint32_t) {
    const int weight = codebook.values[code];
    sum = (row == of ? sum : 0) + static_cast<uint64_t>(weight < 0 ? -weight : weight);
    of = row;
    exact = exact && sum <= kMostExact;
  });
  return exact;
}

// A tile of x that costs more than it saves, or inexact sums: the kernel for rows.
inline Status MakeInt8Tile(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  if (packed.num_kept < packed.cols || !SumsAreExact(packed, codebook)) {
    const FcKernel* rows = KernelFor({kernel->isa, Activations::kInt8, 1});
    return rows->make(packed, rows, out);
  }
  const Status status = MakeTileLayout(packed, kernel, out);
  if (status != Status::kOk) return status;
  for (int code = 0; code < 256; ++code) (*out)->codebook[code] = codebook.values[code];
  (*out)->w_scale = codebook.scale;
  return Status::kOk;
}

// `Kernel` is the float32 kernel on tiles of the same instruction set, which sees by the layout's kernel that sums are
// whole numbers.
template <const FcKernel* kKernel>
void ForwardInt8Tile(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  kKernel->forward(layout, rows, first, end);
}

// Vectors of the compiler's own; with 32 bytes, which AVX-512 has too, 8 batch rows are whole ones.
#if defined(__AVX2__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif
using Floats = float __attribute__((vector_size(kVectorBytes)));
using Whole = int32_t __attribute__((vector_size(kVectorBytes)));
constexpr size_t kFloats = kVectorBytes / sizeof(float);

inline Floats LoadFloats(const float* from) {
  Floats v;
  memcpy(&v, from, sizeof v);
  return v;
}

// QuantizeValue (int8.h).
inline Floats Quantized(Floats v, Floats inverse) {
  v *= inverse;
  v += v < 0.0f ? Floats{} - 0.5f : Floats{} + 0.5f;
  v = v < kMostInt8 ? v : Floats{} + kMostInt8;
  v = v > -kMostInt8 ? v : Floats{} - kMostInt8;
  return __builtin_convertvector(__builtin_convertvector(v, Whole), Floats);
}

// One step of each batch row of a tile, and 1 / step, or 0 for rows without one.
template <size_t kStride>
void FindSteps(const float* tile, size_t cols, float x_scale, float* scales, float* inverses) {
  constexpr size_t kVectors = kStride / kFloats;
  Whole largest[kVectors] = {};
  for (size_t col = 0; col < cols; ++col, tile += kStride) {
    for (size_t v = 0; v < kVectors; ++v) {
      const Whole magnitude = reinterpret_cast<Whole>(LoadFloats(tile + v * kFloats)) & INT32_MAX;
      largest[v] = magnitude > largest[v] ? magnitude : largest[v];
    }
  }
  for (size_t b = 0; b < kStride; ++b) {
    scales[b] = StepOf(static_cast<uint32_t>(largest[b / kFloats][b % kFloats]), x_scale);
    inverses[b] = scales[b] > 0.0f ? 1.0f / scales[b] : 0.0f;
  }
}

// QuantizeRow (inputs.h) of each batch row of a tile, in place.
template <size_t kStride>
void QuantizeColumns(float* tile, size_t cols, float x_scale, float* scales) {
  constexpr size_t kVectors = kStride / kFloats;
  float inverses[kStride];
  FindSteps<kStride>(tile, cols, x_scale, scales, inverses);
  Floats inverse[kVectors];
  memcpy(inverse, inverses, sizeof inverses);
  for (size_t col = 0; col < cols; ++col) {
    for (size_t v = 0; v < kVectors; ++v, tile += kFloats) {
      const Floats whole = Quantized(LoadFloats(tile), inverse[v]);
      memcpy(tile, &whole, sizeof whole);
    }
  }
}

inline void QuantizeInt8Tile(float* tile, size_t cols, size_t stride, float x_scale, float* scales) {
  switch (stride) {
    case 8: return QuantizeColumns<8>(tile, cols, x_scale, scales);
    case 16: return QuantizeColumns<16>(tile, cols, x_scale, scales);
    case 24: return QuantizeColumns<24>(tile, cols, x_scale, scales);
    default: return QuantizeColumns<kTileWidth>(tile, cols, x_scale, scales);
  }
}

inline void BackwardInt8Tile(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  TileBackward(layout, dy, batch, dx);
  for (size_t i = 0; i < batch * layout->cols; ++i) dx[i] *= layout->w_scale;
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_S8_FC_TILE_H_
