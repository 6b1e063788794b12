// Every kernel against reference.h: signed random data, all tails, empty rows, all-zero and full matrices, any batch.
#include <cstring>

#include "../bench/entries.h"
#include "forward.h"

namespace keras_prune_test {
namespace {

const std::vector<size_t> kBatches = {0, 1, 2, 3, 4, 5, 17, 64};

// The AVX-512 kernel takes windows of 64 columns where hardly a window of 32 has two weights of a row.
TEST(VerySparseLayers) {
  for (uint32_t cols : {33u, 40u, 63u, 64u, 65u, 79u, 80u, 500u, 1003u}) {
    for (uint32_t size : {4u, 16u, 32u, 40u, 100u, 200u}) {
      CheckLayer(RandomLayer(100, cols, cols < 100 ? 0.02 : 0.004, size, cols + size), {1, 4, 5});
    }
  }
}

TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 2u, 7u, 8u, 9u, 15u, 16u, 17u, 31u, 32u, 33u, 48u}) {
    for (uint32_t cols : {1u,  2u,  3u,  7u,  8u,  9u,  15u,  16u,  17u, 31u,
                          32u, 33u, 63u, 64u, 65u, 100u, 255u, 256u, 257u}) {
      CheckLayer(RandomLayer(rows, cols, 0.2, 16, rows * 1000 + cols), {1, 3, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.7, 1.0}) {
    CheckLayer(RandomLayer(70, 300, density, 16, 11), kBatches);
    CheckLayer(RandomLayer(300, 70, density, 16, 12), {1, 17}, 4);
  }
}

TEST(CodebookSizes) {
  for (uint32_t size : {1u, 2u, 3u, 4u, 8u, 15u, 16u, 17u, 32u, 33u, 64u, 65u, 128u, 129u, 255u, 256u}) {
    CheckLayer(RandomLayer(40, 200, 0.1, size, size), {1, 4, 17});
  }
}

TEST(EveryGapWidth) {
  for (int gap_bits = 4; gap_bits <= 8; ++gap_bits) {
    CheckLayer(RandomLayer(37, 513, 0.02, 16, 21), {1, 5}, gap_bits);
  }
}

TEST(EmptyAndFullRows) {
  Layer layer = RandomLayer(50, 400, 0.1, 16, 31);
  for (uint32_t row : {0u, 1u, 17u, 30u, 31u, 49u}) {
    for (uint32_t c = 0; c < layer.cols; ++c) layer.codes[row * layer.cols + c] = row == 17 ? 3 : 0;
  }
  CheckLayer(layer, kBatches);
}

TEST(OneSurvivor) {
  for (size_t at : {size_t{0}, size_t{399}, size_t{400}, size_t{7777}, size_t{50 * 400 - 1}}) {
    Layer layer{50, 400, std::vector<uint8_t>(50 * 400), {0.0f, -1.5f}};
    layer.codes[at] = 1;
    CheckLayer(layer, {1, 2, 17});
  }
}

TEST(RowsOfVeryDifferentLength) {
  Layer layer = RandomLayer(64, 1000, 1.0, 16, 41);
  for (uint32_t row = 0; row < layer.rows; ++row) {
    for (uint32_t c = 0; c < layer.cols; ++c) {
      if ((c * 7 + row * 13) % 1000 > row * row / 5) layer.codes[row * layer.cols + c] = 0;
    }
  }
  CheckLayer(layer, {1, 4, 17});
}

TEST(MoreColumnsThanSixteenBitsCount) {
  CheckLayer(RandomLayer(3, 70000, 0.01, 16, 51), {1, 2, 17});
  CheckLayer(RandomLayer(33, 70000, 0.001, 16, 52), {1, 5});
}

// A base moves by 255 units at most: of 16 columns where the window has 256, else of one.
TEST(ColumnsFarApart) {
  for (uint32_t apart : {239u, 241u, 300u, 500u, 700u, 4081u, 4096u, 4900u}) {
    Layer layer{35, 6 * apart + 11, std::vector<uint8_t>(size_t{35} * (6 * apart + 11)), {0.0f, -1.5f, 2.0f}};
    for (uint32_t row = 0; row < layer.rows; ++row) {
      for (uint32_t k = row % 2; k < 6; ++k) {
        layer.codes[size_t{row} * layer.cols + k * apart + row % 11] = static_cast<uint8_t>(1 + (row + k) % 2);
      }
    }
    CheckLayer(layer, {1, 5});
  }
}

// Values of zero are weights as others: their product with what is not finite is no number.
TEST(WeightsOfValueZero) {
  for (uint32_t size : {3u, 20u, 40u, 100u}) {
    Layer layer = RandomLayer(40, 200, 0.2, size, size);
    layer.codebook[1] = 0.0f;
    layer.codebook[2] = -0.0f;
    const std::vector<uint8_t> packed = Pack(layer);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
    ForEachLayout(view, [&](const FcLayout* layout) {
      std::vector<float> x = RandomVector(2 * layer.cols, 53);
      CheckForward(view, layout, x, {2, true, -kInf, kInf});
      for (uint32_t at = 0; at < x.size(); at += 50) x[at] = kInf;
      CheckForward(view, layout, x, {2, true, -kInf, kInf});
    });
  }
}

TEST(SameBitsForAnyNumberOfThreads) {
  CheckLayer(RandomLayer(100, 300, 0.2, 16, 55), {1}, 8, true);
  CheckLayer(RandomLayer(1000, 500, 0.1, 20, 56), {1, 2}, 8, true);
  CheckLayer(RandomLayer(1000, 500, 0.1, 16, 57), {7}, 8, true);
  CheckLayer(RandomLayer(700, 500, 0.1, 16, 58), {32, 150}, 8, true);
  CheckLayer(RandomLayer(17, 70000, 0.01, 16, 59), {1, 5}, 8, true);
}

TEST(ManyRows) { CheckLayer(RandomLayer(70000, 3, 0.2, 16, 61), {1, 5}); }

TEST(PrunedPositionsNeverTouchX) {
  const Layer layer = RandomLayer(45, 333, 0.06, 16, 71);
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  const float hostile[] = {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()};
  ForEachLayout(view, [&](const FcLayout* layout) {
    for (size_t batch : {1, 2, 5, 17}) {
      for (uint32_t at = 0; at < layer.cols; at += 3) {
        std::vector<float> x = RandomVector(batch * layer.cols, 73);
        for (size_t b = 0; b < batch; ++b) x[b * layer.cols + (at + b) % layer.cols] = hostile[(at + b) % 3];
        CheckForward(view, layout, x, {batch, true, -kInf, kInf});
      }
    }
  });
}

TEST(GradientsOfPrunedPositionsNeverTouchDy) {
  const Layer layer = RandomLayer(45, 333, 0.06, 16, 81);
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  ForEachLayout(view, [&](const FcLayout* layout) {
    for (uint32_t row = 0; row < layer.rows; ++row) {
      std::vector<float> dy = RandomVector(layer.rows, 83), dx(layer.cols);
      dy[row] = kInf;
      FcBackward(layout, dy.data(), 1, dx.data());
      size_t wrong = 0;
      for (uint32_t c = 0; c < layer.cols; ++c) {
        wrong += std::isfinite(dx[c]) == (layer.codes[row * layer.cols + c] != 0);
      }
      EXPECT(wrong == 0, "%s row %u: %zu columns", FcKernelName(layout), row, wrong);
    }
  });
}

// With everything beyond the packed bytes: the promise for a large layer is a tenth of the dense bytes.
TEST(LayoutsAreSmall) {
  const Layer layer = RandomLayer(128, 25088, 0.04, 16, 91);
  const std::vector<uint8_t> packed = Pack(layer, 6);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  const double dense_bytes = 4.0 * layer.rows * layer.cols;
  ForEachLayout(view, [&](const FcLayout* layout) {
    EXPECT(FcLayoutBytes(layout) < 0.06 * dense_bytes, "%s: %.3f of dense", FcKernelName(layout),
           FcLayoutBytes(layout) / dense_bytes);
  });
  FreeFcLayout(nullptr);
}

size_t LayoutBytes(const PackedView& view, Isa isa) {
  FcLayout* layout = nullptr;
  EXPECT(MakeFcLayout(view, {isa}, &layout) == Status::kOk, "%s", IsaName(isa));
  const size_t num_bytes = layout != nullptr ? FcLayoutBytes(layout) : 0;
  FreeFcLayout(layout);
  return num_bytes;
}

// Four, nine and 25 of a hundred weights are what VGG-16's and AlexNet's layers keep.
TEST(LargeLayoutsAreAtMostSoManyTimesTheirEntries) {
  struct {
    uint32_t rows, cols;
    double density;
  } const cases[] = {{300, 9216, 0.09}, {300, 25088, 0.04}, {300, 4096, 0.25}};
  for (const auto& c : cases) {
    for (uint32_t codebook_size : {16u, 32u, 64u, 256u}) {
      const std::vector<uint8_t> packed = Pack(RandomLayer(c.rows, c.cols, c.density, codebook_size, c.cols));
      PackedView view;
      EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
      for (Isa isa : SupportedIsas()) {
        const double times = static_cast<double>(LayoutBytes(view, isa)) / keras_prune_bench::EntryBytes(view);
        EXPECT(times <= 1.6, "%s, %u columns at %g, %u values: %.3f", IsaName(isa), c.cols, c.density, codebook_size,
               times);
      }
    }
  }
}

// Large layouts of codes of 5 and 6 bits, in the forms that are not the fastest.
TEST(LargeLayouts) {
  for (uint32_t size : {17u, 64u}) CheckLayer(RandomLayer(400, 800, 0.6, size, size), {1, 5});
}

// With so few weights AVX-512's windows have more fillers than weights, and AVX2's layout stands in.
TEST(Avx512TakesAvx2LayoutsOfFewWeights) {
  if (!IsaSupported(Isa::kAvx512)) return;
  const std::vector<uint8_t> packed = Pack(RandomLayer(1000, 9000, 0.02, 16, 93));
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  FcLayout* layout = nullptr;
  EXPECT(MakeFcLayout(view, {Isa::kAvx512}, &layout) == Status::kOk, "layout");
  EXPECT(std::strcmp(FcKernelName(layout), "f32_fc_sell16__avx2") == 0, "%s", FcKernelName(layout));
  EXPECT(FcLayoutBytes(layout) <= 1.6 * keras_prune_bench::EntryBytes(view), "%zu", FcLayoutBytes(layout));
  FreeFcLayout(layout);
}

// 36 bytes that claim as many rows or columns as the format allows: nothing may be spent on the claim.
TEST(LayoutsFollowTheBytesAndNotTheClaimedSizes) {
  for (bool tall : {true, false}) {
    Layer layer{1, 1, {0}, {0.0f}};
    std::vector<uint8_t> packed = Pack(layer);
    Put32(INT32_MAX, packed.data() + (tall ? 8 : 12));
    Seal(&packed);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "allowed");
    ForEachLayout(view, [](const FcLayout* layout) {
      EXPECT(FcLayoutBytes(layout) < 4096, "%s", FcKernelName(layout));
    });
  }
}

// The packed bytes bridge so many zeros with fillers, and the reference copies them.
TEST(MostRowsEmpty) {
  Layer layer{100000, 7, std::vector<uint8_t>(700000), {0.0f, -1.5f, 2.0f}};
  for (size_t at : {size_t{0}, size_t{350001}, size_t{350003}, size_t{699999}}) layer.codes[at] = 1 + at % 2;
  CheckLayer(layer, {0, 1, 2, 5});
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  ForEachLayout(view, [&](const FcLayout* layout) {
    EXPECT(FcLayoutBytes(layout) < 4096 + packed.size(), "%s", FcKernelName(layout));
  });
}

// With a few rows most slots of the vector kernels would be fillers: the scalar layout stands in.
TEST(FewRowsTakeTheScalarLayout) {
  struct {
    uint32_t rows, cols;
    double density;
    bool scalar;
  } const cases[] = {{1, 25088, 0.1, true}, {1, 70000, 1.0, true},  {2, 4096, 0.1, true},   {10, 100, 0.26, false},
                     {10, 84, 0.3, false},  {100, 300, 0.09, false}, {300, 784, 0.08, false}, {500, 800, 0.08, false},
                     {500, 9216, 0.09, false}, {500, 25088, 0.04, false}, {1000, 4096, 0.25, false}};
  for (const auto& c : cases) {
    const Layer layer = RandomLayer(c.rows, c.cols, c.density, 16, c.rows);
    CheckLayer(layer, {1, 5});
    const std::vector<uint8_t> packed = Pack(layer);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
    for (Isa isa : SupportedIsas()) {
      if (isa == Isa::kReference || isa == Isa::kScalar) continue;
      const bool is_scalar = LayoutBytes(view, isa) == LayoutBytes(view, Isa::kScalar);
      EXPECT(is_scalar == c.scalar, "%s %ux%u", IsaName(isa), c.rows, c.cols);
    }
  }
}

TEST(NamesAndForcing) {
  EXPECT(IsaSupported(Isa::kReference) && IsaSupported(Isa::kScalar), "always there");
  bool ok = false;
  for (Isa isa : SupportedIsas()) {
    setenv("KERAS_PRUNE_ISA", IsaName(isa), 1);
    EXPECT(SelectIsa(&ok) == isa && ok, "%s", IsaName(isa));
    Isa named;
    EXPECT(IsaFromName(IsaName(isa), &named) && named == isa, "%s", IsaName(isa));
  }
  setenv("KERAS_PRUNE_ISA", "mmx", 1);
  SelectIsa(&ok);
  EXPECT(!ok, "an unknown name");
  setenv("KERAS_PRUNE_ISA", "", 1);
  EXPECT(SelectIsa(&ok) == SupportedIsas().back() && ok, "empty is the best");
  unsetenv("KERAS_PRUNE_ISA");
  EXPECT(SelectIsa(&ok) == SupportedIsas().back() && ok, "the best");
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
