// The compute layouts of the vector kernels on float32 rows, each shape whatever the size of the layer: AVX-512 takes
// triples of steps for large ones only, the others codes of 6 bits for large ones of 33 to 64 values.
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
    {&kFcAvx2, {kWidestWindow, false, 6}},
    {&kFcAvx512, {32, false}},
    {&kFcAvx512, {64, false}},
    {&kFcAvx512, {kTripleWindow, true}},
#elif defined(__aarch64__)
    {&kFcNeon, {kWidestWindow, false}},
    {&kFcNeon, {kWidestWindow, false, 6}},
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
    const bool six_bits = layer.codebook.size() > 32 && layer.codebook.size() <= 64;
    if (!IsaSupported(form.kernel->isa) || (form.shape.code_bits == 6 && !six_bits)) continue;
    const uint64_t groups = builder.CountGroups(form.shape);
    EXPECT(builder.Build(form.shape, groups, form.kernel, &layout) == Status::kOk, "%s", form.kernel->name);
    EXPECT(FcLayoutBytes(layout) == builder.NumBytes(form.shape, groups), "%s", form.kernel->name);
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
      for (uint32_t size : {16u, 33u}) CheckForms(RandomLayer(rows, cols, 0.2, size, rows * 1000 + cols), {1, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.002, 0.01, 0.05, 0.3, 1.0}) {
    for (uint32_t size : {2u, 16u}) CheckForms(RandomLayer(70, 1003, density, size, 11), {0, 1, 4});
  }
}

TEST(CodebookSizes) {
  for (uint32_t size : {15u, 16u, 17u, 32u, 33u, 64u, 65u, 128u, 129u, 256u}) {
    CheckForms(RandomLayer(50, 700, 0.3, size, size), {1, 4});
  }
}

// Rows are counted in 16 bits as far as these go.
TEST(ManyRows) {
  for (uint32_t rows : {65536u, 65537u}) {
    Layer layer = RandomLayer(rows, 9, 0.1, 33, rows);
    layer.codes.back() = 32;
    CheckForms(layer, {1});
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
  for (uint32_t size : {16u, 64u}) {
    const Layer layer = RandomLayer(45, 333, 0.06, size, 71);
    ForEachForm(layer, [&](const PackedView& view, const FcLayout* layout) {
      for (uint32_t at = 0; at < layer.cols; at += 3) {
        std::vector<float> x = RandomVector(layer.cols, 73);
        x[at] = kInf;
        x[(at + 100) % layer.cols] = std::numeric_limits<float>::quiet_NaN();
        CheckForward(view, layout, x, {1, true, -kInf, kInf});
      }
    });
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
