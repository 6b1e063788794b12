#include "inputs.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "transpose.h"

namespace keras_prune {
namespace {

constexpr size_t kMostInt8Rows = 64;  // quantized at once: as much workspace, whatever the batch

uint64_t Aligned(uint64_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

struct PartsOfRows {
  const FcLayout* layout;
  const RowBlock* rows;
  uint32_t shares;
};

uint32_t PartBefore(const FcLayout* layout, uint32_t share, uint32_t shares) {
  if (share == 0) return 0;
  if (share == shares) return layout->num_parts;
  if (layout->kernel->split != nullptr) return layout->kernel->split(layout, share, shares);
  return static_cast<uint32_t>(uint64_t{layout->num_parts} * share / shares);
}

void RunShare(void* context, int share) {
  const auto& work = *static_cast<const PartsOfRows*>(context);
  const auto at = static_cast<uint32_t>(share);
  const uint32_t first = PartBefore(work.layout, at, work.shares), end = PartBefore(work.layout, at + 1, work.shares);
  if (first < end) work.layout->kernel->forward(work.layout, *work.rows, first, end);
}

RowBlock RowsOf(const FcLayout* layout, const FcCall& call) {
  RowBlock rows = {};
  rows.x = call.x;
  rows.count = call.batch;
  rows.stride = layout->cols;
  rows.bias = call.bias;
  rows.low = call.low;
  rows.high = call.high;
  rows.y = call.y;
  rows.y_stride = layout->rows;
  return rows;
}

struct Tiles {
  const FcLayout* layout;
  const FcCall* call;
  size_t num_tiles, shares;
  Workers* workers;  // of the parts of one tile; null where threads share the tiles
};

// The call of these rows alone.
FcCall Part(FcCall call, const RowBlock& rows) {
  call.batch = rows.count;
  call.y = rows.y;
  return call;
}

uint64_t TileBytes(const FcLayout* layout, size_t batch) {
  return Aligned(uint64_t{layout->cols} * TileStride(*layout->kernel, batch) * sizeof(float));
}

void LoadTileOf(const FcLayout* layout, const FcCall& call, const float* x, float* scales, float* tile,
                RowBlock* rows) {
  const size_t cols = layout->cols;
  rows->x = tile;
  rows->stride = TileStride(*layout->kernel, rows->count);
  rows->scales = scales;
  LoadTile(x, rows->count, cols, cols, rows->stride, tile);
  if (layout->kernel->input == Input::kInt8Tile) QuantizeTile(layout, call.x_scale, tile, scales, *rows);
}

// Tiles [first, end) by one thread, which has the workspace of `share`.
void RunTiles(const Tiles& work, size_t share, size_t first, size_t end) {
  const FcLayout* layout = work.layout;
  const size_t width = layout->kernel->tile, cols = layout->cols;
  auto* memory = static_cast<char*>(work.call->workspace) + share * TileBytes(layout, work.call->batch);
  float scales[kMostTile];
  for (size_t at = first; at < end; ++at) {
    RowBlock rows = RowsOf(layout, *work.call);
    const size_t row = at * width;
    rows.count = std::min(width, work.call->batch - row);
    rows.y += row * layout->rows;
    if (layout->kept_rows < layout->rows) FillRows(layout->rows, Part(*work.call, rows));
    LoadTileOf(layout, *work.call, work.call->x + row * cols, scales, reinterpret_cast<float*>(memory), &rows);
    ForwardParts(layout, rows, work.workers);
  }
}

void RunTilesOfShare(void* context, int part) {
  const auto& work = *static_cast<const Tiles*>(context);
  const auto share = static_cast<size_t>(part);
  const uint64_t tiles = work.num_tiles;
  RunTiles(work, share, static_cast<size_t>(tiles * share / work.shares),
           static_cast<size_t>(tiles * (share + 1) / work.shares));
}

size_t NumTiles(const FcLayout* layout, size_t batch) {
  const size_t width = layout->kernel->tile;
  return batch / width + (batch % width != 0);
}

}  // namespace

size_t TileStride(const FcKernel& kernel, size_t count) {
  const size_t step = kernel.tile_step != 0 ? kernel.tile_step : kernel.tile;
  return std::min(kernel.tile, count / step * step + (count % step != 0 ? step : 0));
}

void ForwardParts(const FcLayout* layout, const RowBlock& rows, Workers* workers) {
  PartsOfRows work = {layout, &rows, static_cast<uint32_t>(NumThreads(workers))};
  if (work.shares == 1) return layout->kernel->forward(layout, rows, 0, layout->num_parts);
  RunParts(workers, static_cast<int>(work.shares), RunShare, &work);
}

void ForwardRows(const FcLayout* layout, const FcCall& call) {
  ForwardParts(layout, RowsOf(layout, call), call.workers);
}

void ForwardInt8Rows(const FcLayout* layout, const FcCall& call) {
  const auto stride = static_cast<size_t>(Aligned(layout->cols));
  auto* values = static_cast<int8_t*>(call.workspace);
  float scales[kMostInt8Rows];
  RowBlock rows = RowsOf(layout, call);
  rows.x = values;
  rows.stride = stride;
  rows.scales = scales;
  for (size_t row = 0; row < call.batch; row += rows.count) {
    rows.count = std::min(kMostInt8Rows, call.batch - row);
    for (size_t b = 0; b < rows.count; ++b) {
      const float* x = call.x + (row + b) * layout->cols;
      scales[b] = QuantizeFor(*layout->kernel, x, layout->cols, call.x_scale, values + b * stride);
      FillIfNan(scales[b], rows.y_stride, call.y + (row + b) * rows.y_stride);
    }
    rows.y = call.y + row * rows.y_stride;
    ForwardParts(layout, rows, call.workers);
  }
}

uint64_t Int8RowsBytes(const FcLayout* layout, size_t batch) {
  return std::min(batch, kMostInt8Rows) * Aligned(layout->cols);
}

// Threads take whole tiles where there are enough of them, else parts of each.
void ForwardTiles(const FcLayout* layout, const FcCall& call) {
  Tiles work = {layout, &call, NumTiles(layout, call.batch), static_cast<size_t>(NumThreads(call.workers)), nullptr};
  if (work.num_tiles < work.shares) {
    work.workers = call.workers;
    return RunTiles(work, 0, 0, work.num_tiles);
  }
  RunParts(call.workers, static_cast<int>(work.shares), RunTilesOfShare, &work);
}

uint64_t TilesBytes(const FcLayout* layout, size_t batch, int num_threads) {
  const auto threads = static_cast<size_t>(std::max(num_threads, 1));
  const size_t shares = NumTiles(layout, batch) < threads ? 1 : threads;
  return shares * TileBytes(layout, batch);
}

float QuantizeFor(const FcKernel& kernel, const float* x, size_t size, float scale, int8_t* values) {
  const FcKernel* rows = KernelFor({kernel.isa, Activations::kInt8, 1});  // has it, if any has
  return (rows->quantize != nullptr ? rows->quantize : QuantizeRow)(x, size, Aligned(size), scale, values);
}

void QuantizeTile(const FcLayout* layout, float x_scale, float* tile, float* scales, const RowBlock& rows) {
  layout->kernel->quantize_tile(tile, layout->cols, rows.stride, x_scale, scales);
  for (size_t b = 0; b < rows.count; ++b) FillIfNan(scales[b], rows.y_stride, rows.y + b * rows.y_stride);
}

void FillIfNan(float scale, size_t size, float* y) {
  for (size_t row = 0; isnan(scale) && row < size; ++row) y[row] = NAN;
}

void LoadTile(const float* x, size_t count, size_t stride, size_t cols, size_t width, float* tile) {
  const float* rows[kMostTile];
  for (size_t b = 0; b < count; ++b) rows[b] = x + b * stride;
  Transpose(rows, count, cols, width, tile);
  for (size_t col = 0; count < width && col < cols; ++col) {
    for (size_t b = count; b < width; ++b) tile[col * width + b] = 0.0f;
  }
}

}  // namespace keras_prune
