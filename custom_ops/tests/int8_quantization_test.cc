// How values become whole numbers, and how near to float32 the results are: as proven.
#include "int8_forward.h"

namespace keras_prune_test {
namespace {

TEST(ExtremesOfFloat32) {
  for (float size : {1e-45f, 1e-40f, 1.2e-38f, 1.5e-36f, 1e-20f, 1e20f, 1e36f}) {
    Layer layer = RandomLayer(20, 100, 0.3, 16, 91);
    std::vector<float> x = RandomVector(100, 92);
    for (float& v : x) v *= size;
    Layer tiny = layer;
    for (float& v : tiny.codebook) v *= 1e-40f;
    for (const Layer& some : {layer, tiny}) {
      const Layouts layouts(some);
      for (const FcLayout* layout : layouts.all()) {
        CheckForward(some, layout, x, {});
        CheckForward(some, layout, x, {1, true, -kInf, kInf, 1e-45f});
        CheckForward(some, layout, x, {1, true, -kInf, kInf, 3e38f});
      }
    }
  }
}

// Each factor is off by half a step at most, so that with w = wq sw + e, |e| <= sw / 2, and x likewise,
// |y - y_float| <= sum (|w| sx / 2 + |x| sw / 2 + sx sw / 4); and 4 roundings of the result, and of x / sx.
TEST(TheErrorAgainstFloat32IsAsProven) {
  constexpr double kHalf = 0.5 + 3e-5;  // x * (1 / sx) + 0.5 is up to 127.5 in float32
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Layer layer = RandomLayer(50, 400, 0.1, seed % 2 != 0 ? 16 : 200, seed);
    const std::vector<float> x = RandomVector(layer.cols, seed + 100);
    const double sx = StepOf(x.data(), x.size(), 0.0f), sw = StepOf(layer.codebook.data(), layer.codebook.size(), 0.0f);
    const Layouts layouts(layer);
    for (const FcLayout* layout : layouts.all()) {
      std::vector<float> y(layer.rows);
      const Workspace workspace(layout, 1);
      FcCall call = {x.data(), 1, nullptr, -kInf, kInf, y.data()};
      call.workspace = workspace.memory();
      FcForward(layout, call);
      for (uint32_t r = 0; r < layer.rows; ++r) {
        double sum = 0.0, bound = 0.0;
        for (uint32_t c = 0; c < layer.cols; ++c) {
          const uint8_t code = layer.codes[r * layer.cols + c];
          const double w = layer.codebook[code];
          sum += w * x[c];
          if (code != 0) bound += kHalf * (std::fabs(w) * sx + std::fabs(x[c]) * sw) + kHalf * kHalf * sx * sw;
        }
        bound += 4 * 0x1p-24 * (std::fabs(sum) + bound);
        EXPECT(std::fabs(y[r] - sum) <= bound, "%s row %u: %g, allowed %g", FcKernelName(layout), r, y[r] - sum, bound);
      }
    }
  }
}

TEST(EveryQuantizationOfARowIsTheSame) {
  const Layer layer = RandomLayer(64, 64, 0.5, 16, 95);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    if (layout->kernel->quantize == nullptr) continue;
    for (size_t size : {1u, 7u, 8u, 15u, 16u, 31u, 32u, 33u, 64u, 100u, 1000u}) {
      std::vector<float> x = RandomVector(size, static_cast<uint32_t>(size));
      for (size_t i = 0; i < size; i += 3) x[i] = std::round(x[i] * 40) / 80;  // halves, with a scale of 1 / 40
      for (float scale : {0.0f, 0.025f, 0.001f, 100.0f}) {
        const size_t stride = (size + 63) / 64 * 64;
        std::vector<int8_t> want(stride, 99), got(stride, 98);
        const float wanted = QuantizeRow(x.data(), size, stride, scale, want.data());
        const float step = layout->kernel->quantize(x.data(), size, stride, scale, got.data());
        EXPECT(step == wanted && want == got, "%s size %zu scale %g", FcKernelName(layout), size, scale);
      }
    }
  }
}

// In a tile too, whose batch rows stand side by side; rows that are not finite have no step, nor do those of zeros.
TEST(EveryQuantizationOfATileIsTheSame) {
  constexpr size_t kCols = 50;
  const Layer layer = RandomLayer(64, kCols, 0.5, 16, 98);
  const Layouts layouts(layer);
  size_t tiles = 0;
  for (const FcLayout* layout : layouts.all()) {
    if (layout->kernel->quantize_tile == nullptr) continue;
    for (size_t count : {1u, 7u, 8u, 15u, 16u, 23u, 32u}) {
      if (count > layout->kernel->tile) continue;
      const size_t stride = TileStride(*layout->kernel, count);
      std::vector<float> x = RandomVector(count * kCols, static_cast<uint32_t>(count));
      for (size_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i] * 40) / 80;
      std::fill_n(x.begin() + (count - 1) * kCols, kCols, count == 15 ? -0.0f : x[0]);
      if (count > 2) x[kCols + 5] = count == 7 ? NAN : INFINITY;
      for (float scale : {0.0f, 0.025f, 1e-30f, 100.0f}) {
        alignas(kAlignment) float tile[kCols * kMostTile], scales[kMostTile];
        LoadTile(x.data(), count, kCols, kCols, stride, tile);
        layout->kernel->quantize_tile(tile, kCols, stride, scale, scales);
        for (size_t b = 0; b < count; ++b) {
          int8_t want[kAlignment];
          const float step = QuantizeRow(&x[b * kCols], kCols, kAlignment, scale, want);
          EXPECT(std::memcmp(&step, &scales[b], sizeof step) == 0, "%s: %g", FcKernelName(layout), scales[b]);
          for (size_t col = 0; col < kCols && !std::isnan(step); ++col) {
            const float got = tile[col * stride + b];
            EXPECT(got == want[col], "%s: %g, not %d", FcKernelName(layout), got, want[col]);
          }
          ++tiles;
        }
      }
    }
  }
  EXPECT(tiles != 0, "a kernel on tiles");
}

TEST(HalvesAreRoundedAwayFromZero) {
  const float x[] = {0.5f, -0.5f, 1.5f, -1.5f, 126.5f, 300.0f, -300.0f, 0.49f, -2.51f};
  int8_t values[64];
  EXPECT(QuantizeRow(x, 9, 64, 1.0f, values) == 1.0f, "a static scale is taken");
  const int8_t want[] = {1, -1, 2, -2, 127, 127, -127, 0, -3, 0};
  EXPECT(std::memcmp(values, want, sizeof want) == 0, "got %d %d %d", values[0], values[4], values[6]);
  EXPECT(QuantizeRow(x, 9, 64, 0.0f, values) == 300.0f / 127.0f && values[5] == 127 && values[6] == -127, "dynamic");
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
