// Convolutions on packed weights against plain loops: all kinds of kernels, tails, padding, strides and dilations.
#include "../kernels/convolution.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../kernels/kernel.h"
#include "supported.h"

namespace keras_prune_test {
namespace {

// A kernel of tiles as plain as can be, whatever tiles the instruction sets have.
struct PlainLayout : FcLayout {
  const Layer* layer;
};

void PlainForward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const Layer& layer = *static_cast<const PlainLayout*>(layout)->layer;
  const auto* tile = static_cast<const float*>(rows.x);
  const size_t width = layout->kernel->tile;
  for (size_t b = rows.count; b < width; ++b) {
    for (size_t col = 0; col < layer.cols; ++col) EXPECT(tile[col * width + b] == 0.0f, "zeros behind the last pixel");
  }
  for (uint32_t row = first; row < end; ++row) {
    for (size_t b = 0; b < rows.count; ++b) {
      float sum = rows.bias != nullptr ? rows.bias[row] : 0.0f;
      for (size_t col = 0; col < layer.cols; ++col) {
        sum += layer.codebook[layer.codes[row * layer.cols + col]] * tile[col * width + b];
      }
      rows.y[b * rows.y_stride + row] = std::min(std::max(sum, rows.low), rows.high);
    }
  }
}

FcKernel PlainKernel(size_t width) {
  return {"f32_fc_plain__test", Isa::kScalar, Input::kTile, width, nullptr, PlainForward, nullptr, nullptr};
}

FcLayout* MakePlain(const PackedView& view, const Layer& layer, const FcKernel* kernel) {
  auto* layout = static_cast<PlainLayout*>(AllocateAligned(sizeof(PlainLayout)));
  InitLayout(view, kernel, sizeof(PlainLayout), layout);
  layout->num_parts = layer.rows;
  layout->layer = &layer;
  return layout;
}

struct Case {
  ConvShape shape;
  uint32_t rows;
  double density;
};

// TFLite's sizes: of "same" padding the larger half comes after the image.
Case MakeCase(size_t batch, size_t size, size_t channels, size_t kernel, size_t stride, size_t dilation, bool same) {
  const size_t kernel_w = kernel == 3 ? 4 : kernel, stride_w = stride == 1 ? 1 : 3;
  ConvShape s = {batch,    size,     size + 2, channels, kernel, kernel_w, stride,
                 stride_w, dilation, dilation, 0,        0,      0,        0};
  const auto fit = [same](size_t in, size_t k, size_t by, size_t* pad) {
    if (!same) return (in - k) / by + 1;
    const size_t out = (in + by - 1) / by, needed = (out - 1) * by + k;
    *pad = needed > in ? (needed - in) / 2 : 0;
    return out;
  };
  s.out_h = fit(s.in_h, (s.kernel_h - 1) * s.dilation_h + 1, s.stride_h, &s.pad_top);
  s.out_w = fit(s.in_w, (s.kernel_w - 1) * s.dilation_w + 1, s.stride_w, &s.pad_left);
  return {s, 21, 0.2};
}

// Also says how large the sum of all magnitudes is, which bounds its rounding.
double Value(const Case& c, const Layer& layer, const std::vector<float>& x, size_t pixel, uint32_t row, double* size) {
  const ConvShape& s = c.shape;
  const size_t ox = pixel % s.out_w, oy = pixel / s.out_w % s.out_h, image = pixel / s.out_w / s.out_h;
  const uint8_t* codes = layer.codes.data() + size_t{row} * layer.cols;
  double sum = 0;
  for (size_t ky = 0; ky < s.kernel_h; ++ky) {
    for (size_t kx = 0; kx < s.kernel_w; ++kx) {
      for (size_t k = 0; k < s.channels; ++k, ++codes) {
        const long y = static_cast<long>(oy * s.stride_h + ky * s.dilation_h) - static_cast<long>(s.pad_top);
        const long z = static_cast<long>(ox * s.stride_w + kx * s.dilation_w) - static_cast<long>(s.pad_left);
        if (y < 0 || z < 0 || y >= static_cast<long>(s.in_h) || z >= static_cast<long>(s.in_w)) continue;
        const double term = double{layer.codebook[*codes]} * x[((image * s.in_h + y) * s.in_w + z) * s.channels + k];
        sum += term;
        *size += std::fabs(term);
      }
    }
  }
  return sum;
}

struct Call {
  bool bias;
  float low, high;
  int threads;
  float x_scale = 0.0f;
};

// In memory of exactly the needed size, so that the address sanitizer sees every step past it.
std::vector<float> Run(const Case& c, const FcLayout* layout, const std::vector<float>& x, const Call& call) {
  const std::vector<float> bias = RandomVector(c.rows, 3);
  std::vector<float> y(ConvPixels(c.shape) * c.rows + kGuards, kGuard);
  Workers* workers = MakeWorkers(call.threads);
  const Workspace workspace(ConvWorkspaceBytes(layout, c.shape, NumThreads(workers), call.x_scale));
  FcCall made = {x.data(), ConvPixels(c.shape), call.bias ? bias.data() : nullptr, call.low, call.high, y.data()};
  made.x_scale = call.x_scale;
  made.workers = workers;
  made.workspace = workspace.memory();
  ConvForward(layout, c.shape, made);
  FreeWorkers(workers);
  for (size_t i = y.size() - kGuards; i < y.size(); ++i) EXPECT(y[i] == kGuard, "wrote past the output");
  y.resize(y.size() - kGuards);
  return y;
}

void CheckLayout(const Case& c, const Layer& layer, const FcLayout* layout) {
  const ConvShape& s = c.shape;
  const std::vector<float> x = RandomVector(s.batch * s.in_h * s.in_w * s.channels, 7), bias = RandomVector(c.rows, 3);
  const std::vector<float> got = Run(c, layout, x, {true, -kInf, kInf, 1}), cut = Run(c, layout, x, {false, 0, 6, 1});
  size_t wrong = 0;
  for (size_t pixel = 0; pixel < ConvPixels(s); ++pixel) {
    for (uint32_t row = 0; row < c.rows; ++row) {
      double size = 1;
      const double want = Value(c, layer, x, pixel, row, &size);
      const size_t at = pixel * c.rows + row;
      wrong += !(std::fabs(got[at] - want - bias[row]) <= 4e-6 * (size + std::fabs(bias[row])));
      wrong += !(std::fabs(cut[at] - std::min(std::max(want, 0.0), 6.0)) <= 4e-6 * size);
    }
  }
  EXPECT(wrong == 0, "%s: %zux%zux%zu, kernel %zux%zu, stride %zu, dilation %zu: %zu wrong", FcKernelName(layout),
         s.in_h, s.in_w, s.channels, s.kernel_h, s.kernel_w, s.stride_h, s.dilation_h, wrong);
  for (int threads : {2, 3}) EXPECT(Run(c, layout, x, {true, -kInf, kInf, threads}) == got, "%d threads", threads);
}

void CheckCase(const Case& c, const Layer& layer) {
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  for (size_t width : {4, 6, 16, 64}) {
    const FcKernel kernel = PlainKernel(width);
    FcLayout* layout = MakePlain(view, layer, &kernel);
    CheckLayout(c, layer, layout);
    FreeFcLayout(layout);
  }
  for (Isa isa : SupportedIsas()) {
    for (size_t batch : {size_t{1}, ConvPixels(c.shape)}) {  // a layout computes any batch
      FcLayout* layout = nullptr;
      EXPECT(MakeFcLayout(view, {isa, Activations::kFloat32, batch}, &layout) == Status::kOk, "%s", IsaName(isa));
      if (layout != nullptr) CheckLayout(c, layer, layout);
      FreeFcLayout(layout);
    }
  }
}

Layer LayerOf(const Case& c) {
  const auto cols = static_cast<uint32_t>(c.shape.kernel_h * c.shape.kernel_w * c.shape.channels);
  return RandomLayer(c.rows, cols, c.density, 16, cols);
}

void Check(const Case& c) { CheckCase(c, LayerOf(c)); }

TEST(OneByOne) {
  for (size_t channels : {1, 3, 4, 5, 24}) {
    for (size_t batch : {1, 3}) {
      Check(MakeCase(batch, 5, channels, 1, 1, 1, false));
      Check(MakeCase(batch, 6, channels, 1, 2, 1, true));
    }
  }
}

TEST(KernelsOfManySizes) {
  for (size_t kernel : {2, 3, 5}) {
    for (size_t stride : {1, 2}) {
      for (bool same : {false, true}) {
        Check(MakeCase(1, 7, 6, kernel, stride, 1, same));
        Check(MakeCase(3, 8, 4, kernel, stride, 1, same));
      }
    }
  }
}

TEST(Dilations) {
  for (size_t dilation : {2, 3}) {
    for (bool same : {false, true}) Check(MakeCase(2, 9, 5, 3, 1, dilation, same));
  }
}

// Most of such a kernel lies outside.
TEST(KernelsLargerThanTheImage) {
  Check(MakeCase(1, 2, 3, 5, 1, 1, true));
  Check(MakeCase(1, 1, 3, 3, 2, 4, true));
}

TEST(EmptyFullAndAllZeroRows) {
  Case c = MakeCase(1, 5, 4, 3, 1, 1, true);
  for (double density : {0.0, 1.0}) {
    c.density = density;
    Check(c);
  }
  Layer layer = RandomLayer(c.rows, 3 * 4 * 4, 0.3, 16, 5);
  for (uint32_t row : {0u, 3u, 20u}) std::memset(layer.codes.data() + size_t{row} * layer.cols, 0, layer.cols);
  CheckCase(c, layer);
}

TEST(AnEmptyBatch) { Check(MakeCase(0, 5, 4, 3, 1, 1, true)); }

// What is quantized once, with one scale, has the values that each patch would have.
void CheckInt8(const Case& c, const FcLayout* layout, const std::vector<float>& x, const std::vector<float>& patches) {
  const size_t pixels = ConvPixels(c.shape);
  std::vector<float> want(pixels * c.rows);
  const Workspace workspace(layout, pixels);
  for (float x_scale : {0.0f, 0.01f, 1e-44f}) {
    FcCall call = {patches.data(), pixels, nullptr, -kInf, kInf, want.data()};
    call.x_scale = x_scale;
    call.workspace = workspace.memory();
    FcForward(layout, call);
    for (int threads : {1, 2, 3}) {
      EXPECT(SameBits(Run(c, layout, x, {false, -kInf, kInf, threads, x_scale}), want), "%s, %d threads, scale %g",
             FcKernelName(layout), threads, x_scale);
    }
  }
}

std::vector<float> PatchesOf(const Case& c, const std::vector<float>& x) {
  const ConvShape& s = c.shape;
  const size_t cols = s.kernel_h * s.kernel_w * s.channels;
  std::vector<float> patches;
  for (size_t pixel = 0; pixel < ConvPixels(s); ++pixel) {
    const size_t ox = pixel % s.out_w, oy = pixel / s.out_w % s.out_h, image = pixel / s.out_w / s.out_h;
    for (size_t i = 0; i < cols; ++i) {
      const size_t y = oy * s.stride_h + i / s.channels / s.kernel_w - s.pad_top;  // wraps around below zero
      const size_t z = ox * s.stride_w + i / s.channels % s.kernel_w - s.pad_left;
      const bool inside = y < s.in_h && z < s.in_w;
      patches.push_back(inside ? x[((image * s.in_h + y) * s.in_w + z) * s.channels + i % s.channels] : 0.0f);
    }
  }
  return patches;
}

// Whole numbers add up exactly: the same as on patches that stand one after the other. Of values that are not finite,
// only the patches that have them tell; a row of W without weights is told, too.
TEST(Int8PatchesAreThoseOfFullyConnectedLayers) {
  for (size_t stride : {1, 2, 3}) {  // 3: no value is in several patches
    const Case c = MakeCase(2, 6, stride == 1 ? 5 : 33, stride == 3 ? 2 : 3, stride, 1, true);
    const ConvShape& s = c.shape;
    Layer layer = LayerOf(c);
    std::memset(layer.codes.data() + 4 * size_t{layer.cols}, 0, layer.cols);
    const std::vector<uint8_t> packed = Pack(layer);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
    std::vector<float> x = RandomVector(s.batch * s.in_h * s.in_w * s.channels, 7);
    std::fill_n(x.begin(), 2 * s.in_w * s.channels, 0.0f);
    std::vector<float> hostile = x;
    hostile[x.size() / 2 + 3] = -kInf;
    hostile[x.size() / 2 + 40] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> patches = PatchesOf(c, x), hostile_patches = PatchesOf(c, hostile);
    for (Isa isa : SupportedIsas()) {
      for (size_t batch : {1, 64}) {
        FcLayout* layout = nullptr;
        EXPECT(MakeFcLayout(view, {isa, Activations::kInt8, batch}, &layout) == Status::kOk, "%s", IsaName(isa));
        if (IsInt8(layout->kernel->input)) {
          CheckInt8(c, layout, x, patches);
          CheckInt8(c, layout, hostile, hostile_patches);
        }
        FreeFcLayout(layout);
      }
    }
  }
}

TEST(LargeImagesNeedNoMemoryOfTheirSize) {
  const std::vector<uint8_t> packed = Pack(RandomLayer(4, 9 * 16, 0.3, 16));
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  FcLayout* layout = nullptr;
  EXPECT(MakeFcLayout(view, {Isa::kScalar, Activations::kInt8, 1}, &layout) == Status::kOk, "layout");
  for (size_t size : {100, 10000}) {
    const ConvShape shape = {1, size, size, 16, 3, 3, 1, 1, 1, 1, 1, 1, size, size};
    const size_t image = size * size * 16, needed = static_cast<size_t>(ConvWorkspaceBytes(layout, shape, 1, 0.5f));
    EXPECT(size == 100 ? needed > image : needed < 100000, "%zu bytes for an image of %zu", needed, image);
  }
  FreeFcLayout(layout);
}

// A file of a few bytes: one pixel under a kernel of 128 x 128. In 32 bits the patches' 64 GB would be 0.
TEST(SizesOfHostileShapesAreTold) {
  constexpr uint32_t kChannels = 65536, kCols = 128 * 128 * kChannels;
  std::vector<uint8_t> packed = Pack({1, 1, {1}, {0.0f, 1.0f}});
  Put32(kCols, packed.data() + 12);
  Seal(&packed);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  ConvShape shape = {1, 1, 1, kChannels, 128, 128, 1, 1, 1, 1, 63, 63, 1, 1};
  for (Activations activations : {Activations::kFloat32, Activations::kInt8}) {
    FcLayout* layout = nullptr;
    EXPECT(MakeFcLayout(view, {Isa::kScalar, activations, 1}, &layout) == Status::kOk, "layout");
    // Zeros of all channels, and 16 patches; of int8 one patch of floats, and the image's values.
    const uint64_t patch = uint64_t{kCols} * 4, zeros = kChannels * 4;
    const bool is_int8 = activations == Activations::kInt8;
    const uint64_t want = is_int8 ? zeros + kChannels + patch + 4 * patch : zeros + 16 * patch;
    shape.batch = 1;
    const uint64_t needed = ConvWorkspaceBytes(layout, shape, 1, 0.5f);
    EXPECT(needed == want && needed > UINT32_MAX, "%.0f bytes", static_cast<double>(needed));
    shape.batch = 0;
    EXPECT(ConvWorkspaceBytes(layout, shape, 1, 0.5f) == 0, "without images");
    FreeFcLayout(layout);
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
