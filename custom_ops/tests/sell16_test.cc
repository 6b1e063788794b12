// The compute layouts of the vector kernels on float32 rows, each shape whatever the size of the layer: AVX-512 takes
// triples of steps for large ones only.
#include "../kernels/sell16.h"

#include "forward.h"

namespace keras_prune_test {
namespace {

#if defined(__x86_64__)
constexpr Sell16Shape kTriples = {kTripleWindow, true}, kShapes[] = {{32, false}, {64, false}, kTriples};

// Through each shape that AVX-512's kernel takes.
void CheckShapes(const Layer& layer, const std::vector<size_t>& batches) {
  if (!IsaSupported(Isa::kAvx512)) return;
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  Sell16Builder builder(view);
  EXPECT(builder.Scan() == Status::kOk, "scan");
  for (const Sell16Shape& shape : kShapes) {
    FcLayout* layout = nullptr;
    EXPECT(builder.Build(shape, builder.CountGroups(shape), &kFcAvx512, &layout) == Status::kOk, "build");
    for (size_t batch : batches) {
      const std::vector<float> x = RandomVector(batch * layer.cols, 7);
      CheckForward(view, layout, x, {batch, true, -kInf, kInf});
      CheckForward(view, layout, x, {batch, false, 0.0f, 6.0f});
      CheckBackward(view, layout, batch);
      CheckThreads(layout, x, batch);
    }
    FreeFcLayout(layout);
  }
}

// The last window begins at a multiple of 16 columns, or at any column behind one.
TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 15u, 16u, 17u, 40u}) {
    for (uint32_t cols : {1u, 15u, 33u, 63u, 64u, 65u, 79u, 80u, 81u, 95u, 96u, 127u, 128u, 129u, 200u}) {
      CheckShapes(RandomLayer(rows, cols, 0.2, 16, rows * 1000 + cols), {1, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.002, 0.01, 0.05, 0.3, 1.0}) {
    for (uint32_t size : {2u, 16u}) CheckShapes(RandomLayer(70, 1003, density, size, 11), {0, 1, 4});
  }
}

// A move is of at most 30 times 16 columns: there are steps without weights, also before the window at the end.
TEST(ColumnsFarApart) {
  for (uint32_t apart : {239u, 470u, 480u, 481u, 495u, 500u, 960u, 970u, 4096u}) {
    for (uint32_t behind : {0u, 3u, 16u, 60u, 70u, 481u}) {
      Layer layer{35, 5 * apart + 11 + behind, {}, {0.0f, -1.5f, 2.0f}};
      layer.codes.resize(size_t{layer.rows} * layer.cols);
      for (uint32_t row = 0; row < layer.rows; ++row) {
        for (uint32_t k = row % 2; k < 6; ++k) {
          layer.codes[size_t{row} * layer.cols + k * apart + row % 11] = static_cast<uint8_t>(1 + (row + k) % 2);
        }
      }
      CheckShapes(layer, {1});
    }
  }
}

TEST(WhatIsPrunedNeverTouchesX) {
  if (!IsaSupported(Isa::kAvx512)) return;
  const Layer layer = RandomLayer(45, 333, 0.06, 16, 71);
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  Sell16Builder builder(view);
  EXPECT(builder.Scan() == Status::kOk, "scan");
  FcLayout* layout = nullptr;
  EXPECT(builder.Build(kTriples, builder.CountGroups(kTriples), &kFcAvx512, &layout) == Status::kOk, "build");
  for (uint32_t at = 0; at < layer.cols; at += 3) {
    std::vector<float> x = RandomVector(layer.cols, 73);
    x[at] = kInf;
    x[(at + 100) % layer.cols] = std::numeric_limits<float>::quiet_NaN();
    CheckForward(view, layout, x, {1, true, -kInf, kInf});
  }
  FreeFcLayout(layout);
}
#endif

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
