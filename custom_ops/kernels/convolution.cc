#include "convolution.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "inputs.h"
#include "kernel.h"
#include "load_pixels.h"

namespace keras_prune {
namespace {

constexpr size_t kPatches = 16;  // at once for kernels that want rows: an entry of the layout is read once for them

size_t Aligned(size_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

// One call. A block is the pixels whose patches are made at once; a share is the blocks of one thread.
struct Conv {
  const FcLayout* layout;
  const ConvShape* shape;
  const FcCall* call;
  size_t width, num_blocks, shares, share_bytes;
  const float* zeros;  // (channels)
  char* memory;        // (shares, share_bytes)
  Workers* workers;    // of the parts of one block; null where threads share the blocks
};

size_t BlockWidth(const FcLayout* layout) {
  return IsTile(layout->kernel->input) ? layout->kernel->tile : kPatches;
}

size_t NumBlocks(const FcLayout* layout, const ConvShape& shape) {
  const size_t width = BlockWidth(layout), pixels = ConvPixels(shape);
  return pixels / width + (pixels % width != 0);
}

// Threads take whole blocks where there are enough of them, else parts of each.
size_t NumShares(const FcLayout* layout, const ConvShape& shape, int num_threads) {
  const auto threads = static_cast<size_t>(std::max(num_threads, 1));
  return NumBlocks(layout, shape) < threads ? 1 : threads;
}

// One block in the form that the kernel wants; int8 kernels also need a patch before it is quantized.
size_t ShareBytes(const FcLayout* layout) {
  const size_t floats = layout->cols * sizeof(float), width = BlockWidth(layout);
  const size_t tile = layout->kernel->input == Input::kInt8Rows ? 0 : Aligned(floats * width);
  return IsInt8(layout->kernel->input) ? tile + Aligned(floats) + width * Aligned(layout->cols) : tile;
}

// Where the patch of one pixel begins; y and x may lie outside of the image.
struct Window {
  const float* image;
  int64_t y, x;
};

void LocateWindows(const Conv& work, size_t first, size_t count, Window* windows) {
  const ConvShape& s = *work.shape;
  size_t column = first % s.out_w, row = first / s.out_w % s.out_h;
  const float* image = work.call->x + first / s.out_w / s.out_h * s.in_h * s.in_w * s.channels;
  for (size_t i = 0; i < count; ++i) {
    windows[i] = {image, static_cast<int64_t>(row * s.stride_h) - static_cast<int64_t>(s.pad_top),
                  static_cast<int64_t>(column * s.stride_w) - static_cast<int64_t>(s.pad_left)};
    if (++column != s.out_w) continue;
    column = 0;
    if (++row != s.out_h) continue;
    row = 0;
    image += s.in_h * s.in_w * s.channels;
  }
}

// The channels of x that the weights at (ky, kx) of the kernel see.
const float* Seen(const Conv& work, const Window& window, size_t ky, size_t kx) {
  const ConvShape& s = *work.shape;
  const int64_t y = window.y + static_cast<int64_t>(ky * s.dilation_h);
  const int64_t x = window.x + static_cast<int64_t>(kx * s.dilation_w);
  if (y < 0 || x < 0 || y >= static_cast<int64_t>(s.in_h) || x >= static_cast<int64_t>(s.in_w)) return work.zeros;
  return window.image + (static_cast<size_t>(y) * s.in_w + static_cast<size_t>(x)) * s.channels;
}

// tile[col * rows.stride + i]: value `col` of patch i; zero from `count` on.
void FillTile(const Conv& work, const Window* windows, const RowBlock& rows, float* tile) {
  const ConvShape& s = *work.shape;
  const float* pixels[kMostTile];
  for (size_t i = rows.count; i < rows.stride; ++i) pixels[i] = work.zeros;
  for (size_t ky = 0; ky < s.kernel_h; ++ky) {
    for (size_t kx = 0; kx < s.kernel_w; ++kx, tile += s.channels * rows.stride) {
      for (size_t i = 0; i < rows.count; ++i) pixels[i] = Seen(work, windows[i], ky, kx);
      LoadPixels(pixels, rows.stride, s.channels, tile);
    }
  }
}

void FillPatch(const Conv& work, const Window& window, float* patch) {
  const ConvShape& s = *work.shape;
  for (size_t ky = 0; ky < s.kernel_h; ++ky) {
    for (size_t kx = 0; kx < s.kernel_w; ++kx, patch += s.channels) {
      memcpy(patch, Seen(work, window, ky, kx), s.channels * sizeof(float));
    }
  }
}

// A patch that is not finite has results that are not: also those of weights of which nothing is kept, so before them.
void FillInt8(const Conv& work, const Window* windows, char* memory, float* scales, RowBlock* rows) {
  const FcLayout& layout = *work.layout;
  auto* patch = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(memory + Aligned(layout.cols * sizeof(float)));
  rows->x = values;
  rows->stride = Aligned(layout.cols);
  rows->scales = scales;
  for (size_t i = 0; i < rows->count; ++i) {
    FillPatch(work, windows[i], patch);
    scales[i] = QuantizeFor(*layout.kernel, patch, layout.cols, work.call->x_scale, values + i * rows->stride);
    if (isnan(scales[i])) std::fill_n(rows->y + i * rows->y_stride, rows->y_stride, NAN);
  }
}

// The tile comes first.
void FillInt8Tile(const Conv& work, const Window* windows, char* memory, float* scales, RowBlock* rows) {
  const size_t cols = work.layout->cols, tile_bytes = Aligned(cols * sizeof(float) * work.width);
  FillInt8(work, windows, memory + tile_bytes, scales, rows);
  const auto* values = static_cast<const int8_t*>(rows->x);
  auto* tile = reinterpret_cast<float*>(memory);
  rows->x = tile;
  rows->stride = TileStride(*work.layout->kernel, rows->count);
  LoadInt8Tile(values, cols, *rows, tile);
}

// The patches as the kernel wants them; int8 ones with their scales.
void Fill(const Conv& work, const Window* windows, char* memory, float* scales, RowBlock* rows) {
  const size_t cols = work.layout->cols;
  auto* floats = reinterpret_cast<float*>(memory);
  rows->x = floats;
  rows->stride = cols;
  switch (work.layout->kernel->input) {
    case Input::kTile:
      rows->stride = TileStride(*work.layout->kernel, rows->count);
      return FillTile(work, windows, *rows, floats);
    case Input::kRows:
      for (size_t i = 0; i < rows->count; ++i) FillPatch(work, windows[i], floats + i * cols);
      return;
    case Input::kInt8Rows: return FillInt8(work, windows, memory, scales, rows);
    case Input::kInt8Tile: return FillInt8Tile(work, windows, memory, scales, rows);
  }
}

void RunBlock(const Conv& work, size_t block, char* memory) {
  const FcCall& call = *work.call;
  const size_t first = block * work.width;
  Window windows[kMostTile];
  float scales[kMostTile];
  RowBlock rows = {};
  rows.count = std::min(work.width, call.batch - first);
  rows.bias = call.bias;
  rows.low = call.low;
  rows.high = call.high;
  rows.y = call.y + first * work.layout->rows;
  rows.y_stride = work.layout->rows;
  if (work.layout->kept_rows < work.layout->rows) {
    FcCall part = call;
    part.batch = rows.count;
    part.y = rows.y;
    FillRows(work.layout->rows, part);
  }
  // Int8 tells a patch that is not finite also where no weight is kept.
  if (work.layout->num_parts == 0 && !IsInt8(work.layout->kernel->input)) return;
  LocateWindows(work, first, rows.count, windows);
  Fill(work, windows, memory, scales, &rows);
  ForwardParts(work.layout, rows, work.workers);
}

void RunShare(void* context, int part) {
  const auto& work = *static_cast<const Conv*>(context);
  const auto share = static_cast<size_t>(part);
  const size_t end = work.num_blocks * (share + 1) / work.shares;
  for (size_t block = work.num_blocks * share / work.shares; block < end; ++block) {
    RunBlock(work, block, work.memory + share * work.share_bytes);
  }
}

// The patches are x as it is.
bool IsFullyConnected(const ConvShape& s) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
         s.pad_left == 0 && s.out_h == s.in_h && s.out_w == s.in_w;
}

}  // namespace

size_t ConvWorkspaceBytes(const FcLayout* layout, const ConvShape& shape, int num_threads) {
  if (IsFullyConnected(shape)) return FcWorkspaceBytes(layout, ConvPixels(shape), num_threads);
  return Aligned(shape.channels * sizeof(float)) + NumShares(layout, shape, num_threads) * ShareBytes(layout);
}

void ConvForward(const FcLayout* layout, const ConvShape& shape, const FcCall& call) {
  if (IsFullyConnected(shape)) return FcForward(layout, call);
  if (call.batch == 0) return;
  const int threads = NumThreads(call.workers);
  auto* zeros = static_cast<float*>(call.workspace);
  memset(zeros, 0, shape.channels * sizeof(float));
  Conv work = {layout, &shape, &call, BlockWidth(layout), NumBlocks(layout, shape), NumShares(layout, shape, threads),
               ShareBytes(layout), zeros, static_cast<char*>(call.workspace) + Aligned(shape.channels * sizeof(float)),
               nullptr};
  if (work.shares == 1) work.workers = call.workers;
  RunParts(work.shares == 1 ? nullptr : call.workers, static_cast<int>(work.shares), RunShare, &work);
}

}  // namespace keras_prune
