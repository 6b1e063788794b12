#include "convolution.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "inputs.h"
#include "int8.h"
#include "kernel.h"
#include "transpose.h"

namespace keras_prune {
namespace {

constexpr size_t kPatches = 16;  // at once for kernels that want rows: an entry of the layout is read once for them

uint64_t Aligned(uint64_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

// One call. A block is the pixels whose patches are made at once; a share is the blocks of one thread.
struct Conv {
  const FcLayout* layout;
  const ConvShape* shape;
  const FcCall* call;
  size_t width, num_blocks, shares, share_bytes;
  const float* zeros;    // (channels)
  const int8_t* values;  // of call.x, quantized with one scale; null: each patch is
  char* memory;          // (shares, share_bytes)
  Workers* workers;      // of the parts of one block; null where threads share the blocks
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

// One block in the form that the kernel wants; rows of int8 also need a patch before it is quantized.
uint64_t ShareBytes(const FcLayout* layout) {
  const uint64_t floats = uint64_t{layout->cols} * sizeof(float), width = BlockWidth(layout);
  if (layout->kernel->input != Input::kInt8Rows) return Aligned(floats * width);
  return Aligned(floats) + width * Aligned(layout->cols);
}

constexpr size_t kMostImageBytes = size_t{64} << 20;

size_t ImageSize(const ConvShape& s) { return s.batch * s.in_h * s.in_w * s.channels; }

// Bytes of x as int8, or 0. With one scale x is quantized once where its values are in several patches; with a scale for
// each patch they have other values in each. Images beyond kMostImageBytes are quantized by patches, too: up to .4 more
// time, but no memory that grows with them.
uint64_t ValuesBytes(const FcLayout* layout, const ConvShape& shape, float x_scale) {
  const uint64_t seen = uint64_t{ConvPixels(shape)} * shape.kernel_h * shape.kernel_w;
  const bool overlap = seen > shape.batch * shape.in_h * shape.in_w;
  const bool is_once = overlap && x_scale != 0.0f && ImageSize(shape) <= kMostImageBytes;
  return IsInt8(layout->kernel->input) && is_once ? Aligned(ImageSize(shape)) : 0;
}

// Where the patch of one pixel begins: the first value of its image, and y and x that may lie outside of it.
struct Window {
  size_t image;
  int64_t y, x;
};

void LocateWindows(const Conv& work, size_t first, size_t count, Window* windows) {
  const ConvShape& s = *work.shape;
  size_t column = first % s.out_w, row = first / s.out_w % s.out_h;
  size_t image = first / s.out_w / s.out_h * s.in_h * s.in_w * s.channels;
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

// The channels of the images `of` (x, or its int8 values) that the weights at (ky, kx) of the kernel see.
template <typename T>
const T* Seen(const Conv& work, const T* of, const Window& window, size_t ky, size_t kx) {
  const ConvShape& s = *work.shape;
  const int64_t y = window.y + static_cast<int64_t>(ky * s.dilation_h);
  const int64_t x = window.x + static_cast<int64_t>(kx * s.dilation_w);
  if (y < 0 || x < 0 || y >= static_cast<int64_t>(s.in_h) || x >= static_cast<int64_t>(s.in_w)) {
    return reinterpret_cast<const T*>(work.zeros);
  }
  return of + window.image + (static_cast<size_t>(y) * s.in_w + static_cast<size_t>(x)) * s.channels;
}

// tile[col * rows.stride + i]: value `col` of patch i; zero from `count` on.
template <typename T>
void FillTile(const Conv& work, const T* of, const Window* windows, const RowBlock& rows, float* tile) {
  const ConvShape& s = *work.shape;
  const T* pixels[kMostTile];
  for (size_t i = rows.count; i < rows.stride; ++i) pixels[i] = reinterpret_cast<const T*>(work.zeros);
  for (size_t ky = 0; ky < s.kernel_h; ++ky) {
    for (size_t kx = 0; kx < s.kernel_w; ++kx, tile += s.channels * rows.stride) {
      for (size_t i = 0; i < rows.count; ++i) pixels[i] = Seen(work, of, windows[i], ky, kx);
      Transpose(pixels, rows.stride, s.channels, rows.stride, tile);
    }
  }
}

template <typename T>
void FillPatch(const Conv& work, const T* of, const Window& window, T* patch) {
  const ConvShape& s = *work.shape;
  for (size_t ky = 0; ky < s.kernel_h; ++ky) {
    for (size_t kx = 0; kx < s.kernel_w; ++kx, patch += s.channels) {
      memcpy(patch, Seen(work, of, window, ky, kx), s.channels * sizeof(T));
    }
  }
}

// A patch that is not finite has results that are not: also those of weights of which nothing is kept, so before them.
void FillInt8(const Conv& work, const Window* windows, char* memory, float* scales, RowBlock* rows) {
  const FcLayout& layout = *work.layout;
  auto* patch = reinterpret_cast<float*>(memory);
  auto* values = reinterpret_cast<int8_t*>(memory + Aligned(layout.cols * sizeof(float)));
  rows->x = values;
  rows->stride = static_cast<size_t>(Aligned(layout.cols));
  for (size_t i = 0; i < rows->count; ++i) {
    if (work.values != nullptr) {
      FillPatch(work, work.values, windows[i], values + i * rows->stride);
      memset(values + i * rows->stride + layout.cols, 0, rows->stride - layout.cols);
      continue;
    }
    FillPatch(work, work.call->x, windows[i], patch);
    scales[i] = QuantizeFor(*layout.kernel, patch, layout.cols, work.call->x_scale, values + i * rows->stride);
    FillIfNan(scales[i], rows->y_stride, rows->y + i * rows->y_stride);
  }
}

// The patches as the kernel wants them; int8 ones with their scales.
void Fill(const Conv& work, const Window* windows, char* memory, float* scales, RowBlock* rows) {
  const size_t cols = work.layout->cols;
  auto* floats = reinterpret_cast<float*>(memory);
  rows->x = floats;
  rows->stride = cols;
  rows->scales = scales;
  if (work.values != nullptr) std::fill_n(scales, rows->count, StepOf(kSmallestBits, work.call->x_scale));
  switch (work.layout->kernel->input) {
    case Input::kTile:
      rows->stride = TileStride(*work.layout->kernel, rows->count);
      return FillTile(work, work.call->x, windows, *rows, floats);
    case Input::kInt8Tile:
      rows->stride = TileStride(*work.layout->kernel, rows->count);
      if (work.values != nullptr) return FillTile(work, work.values, windows, *rows, floats);
      FillTile(work, work.call->x, windows, *rows, floats);
      return QuantizeTile(work.layout, work.call->x_scale, floats, scales, *rows);
    case Input::kRows:
      for (size_t i = 0; i < rows->count; ++i) FillPatch(work, work.call->x, windows[i], floats + i * cols);
      return;
    case Input::kInt8Rows: return FillInt8(work, windows, memory, scales, rows);
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
  const auto share = static_cast<uint64_t>(part);
  const uint64_t end = work.num_blocks * (share + 1) / work.shares;
  for (uint64_t block = work.num_blocks * share / work.shares; block < end; ++block) {
    RunBlock(work, static_cast<size_t>(block), work.memory + share * work.share_bytes);
  }
}

struct Quantizing {
  const Conv* work;
  int8_t* values;
  size_t size, shares;
  bool finite;
};

void QuantizeShare(void* context, int part) {
  auto& image = *static_cast<Quantizing*>(context);
  const auto share = static_cast<size_t>(part);
  const size_t lines = image.size / kAlignment + 1;  // whole ones, as the rest of one is filled with zeros
  const size_t first = lines * share / image.shares * kAlignment, end = lines * (share + 1) / image.shares * kAlignment;
  if (first >= image.size || first == end) return;
  const FcCall& call = *image.work->call;
  const float scale = QuantizeFor(*image.work->layout->kernel, call.x + first, std::min(end, image.size) - first,
                                  call.x_scale, image.values + first);
  if (isnan(scale)) __atomic_store_n(&image.finite, false, __ATOMIC_RELAXED);
}

// All of x as int8, or null where a value is not finite: each patch tells then whether it has one.
const int8_t* QuantizeImages(const Conv& work, int8_t* values) {
  Quantizing image = {&work, values, ImageSize(*work.shape), static_cast<size_t>(NumThreads(work.call->workers)), true};
  RunParts(work.call->workers, static_cast<int>(image.shares), QuantizeShare, &image);
  return image.finite ? values : nullptr;
}

// The patches are x as it is.
bool IsFullyConnected(const ConvShape& s) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_top == 0 &&
         s.pad_left == 0 && s.out_h == s.in_h && s.out_w == s.in_w;
}

}  // namespace

uint64_t ConvWorkspaceBytes(const FcLayout* layout, const ConvShape& shape, int num_threads, float x_scale) {
  if (ConvPixels(shape) == 0) return 0;
  if (IsFullyConnected(shape)) return FcWorkspaceBytes(layout, ConvPixels(shape), num_threads);
  return Aligned(uint64_t{shape.channels} * sizeof(float)) + ValuesBytes(layout, shape, x_scale) +
         NumShares(layout, shape, num_threads) * ShareBytes(layout);
}

void ConvForward(const FcLayout* layout, const ConvShape& shape, const FcCall& call) {
  if (IsFullyConnected(shape)) return FcForward(layout, call);
  if (call.batch == 0) return;
  const int threads = NumThreads(call.workers);
  auto* zeros = static_cast<float*>(call.workspace);
  memset(zeros, 0, shape.channels * sizeof(float));
  char* values = static_cast<char*>(call.workspace) + Aligned(shape.channels * sizeof(float));
  const uint64_t values_bytes = ValuesBytes(layout, shape, call.x_scale);
  Conv work = {layout, &shape, &call, BlockWidth(layout), NumBlocks(layout, shape), NumShares(layout, shape, threads),
               static_cast<size_t>(ShareBytes(layout)), zeros, nullptr, values + values_bytes, nullptr};
  if (values_bytes != 0) work.values = QuantizeImages(work, reinterpret_cast<int8_t*>(values));
  if (work.shares == 1) work.workers = call.workers;
  RunParts(work.shares == 1 ? nullptr : call.workers, static_cast<int>(work.shares), RunShare, &work);
}

}  // namespace keras_prune
