// The compute layouts of the vector kernels on float32 rows, each shape whatever the size of the layer: AVX-512 takes
// triples of steps for large ones only.
#include "../kernels/sell16.h"

#include "forward.h"

namespace keras_prune_test {
namespace {

struct Form {
  const FcKernel* kernel;
  Sell16Shape shape;
};

const std::vector<Form> kForms = {
#if defined(__x86_64__)
    {&kFcAvx2, {kWidestWindow, false}},
    {&kFcAvx512, {32, false}},
    {&kFcAvx512, {64, false}},
    {&kFcAvx512, {kTripleWindow, true}},
#elif defined(__aarch64__)
    {&kFcNeon, {kWidestWindow, false}},
#endif
};

// Calls check(view, layout) for each shape that this CPU's kernels take.
template <typename Check>
void ForEachForm(const Layer& layer, Check&& check) {
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  Sell16Builder builder(view);
  EXPECT(builder.Scan() == Status::kOk, "scan");
  for (const Form& form : kForms) {
    FcLayout* layout = nullptr;
    if (!IsaSupported(form.kernel->isa)) continue;
    const uint64_t groups = builder.CountGroups(form.shape);
    EXPECT(builder.Build(form.shape, groups, form.kernel, &layout) == Status::kOk, "%s", form.kernel->name);
    check(view, layout);
    FreeFcLayout(layout);
  }
}

void CheckForms(const Layer& layer, const std::vector<size_t>& batches) {
  ForEachForm(layer, [&](const PackedView& view, const FcLayout* layout) {
    for (size_t batch : batches) {
      const std::vector<float> x = RandomVector(batch * layer.cols, 7);
      CheckForward(view, layout, x, {batch, true, -kInf, kInf});
      CheckForward(view, layout, x, {batch, false, 0.0f, 6.0f});
      CheckBackward(view, layout, batch);
      CheckThreads(layout, x, batch);
    }
  });
}

// The last window begins at a multiple of 16 columns, or at any column behind one.
TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 15u, 16u, 17u, 40u}) {
    for (uint32_t cols : {1u, 15u, 33u, 63u, 64u, 65u, 79u, 80u, 81u, 95u, 96u, 127u, 128u, 129u, 200u}) {
      CheckForms(RandomLayer(rows, cols, 0.2, 16, rows * 1000 + cols), {1, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.002, 0.01, 0.05, 0.3, 1.0}) {
    for (uint32_t size : {2u, 16u}) CheckForms(RandomLayer(70, 1003, density, size, 11), {0, 1, 4});
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
      CheckForms(layer, {1});
    }
  }
}

TEST(WhatIsPrunedNeverTouchesX) {
  const Layer layer = RandomLayer(45, 333, 0.06, 16, 71);
  ForEachForm(layer, [&](const PackedView& view, const FcLayout* layout) {
    for (uint32_t at = 0; at < layer.cols; at += 3) {
      std::vector<float> x = RandomVector(layer.cols, 73);
      x[at] = kInf;
      x[(at + 100) % layer.cols] = std::numeric_limits<float>::quiet_NaN();
      CheckForward(view, layout, x, {1, true, -kInf, kInf});
    }
  });
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
