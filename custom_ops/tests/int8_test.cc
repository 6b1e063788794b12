// Int8 activations: every kernel gives the bits of the exact sums.
#include "../bench/entries.h"
#include "int8_forward.h"

namespace keras_prune_test {
namespace {

const std::vector<size_t> kBatches = {0, 1, 2, 3, 4, 5, 17, 63, 64, 65};

TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 3u, 4u, 7u, 8u, 9u, 15u, 16u, 17u, 33u}) {
    for (uint32_t cols : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 127u, 128u, 129u, 255u, 257u}) {
      CheckLayer(RandomLayer(rows, cols, 0.3, 16, rows * 1000 + cols), {1, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.7, 1.0}) {
    CheckLayer(RandomLayer(70, 300, density, 16, 11), kBatches);
    CheckLayer(RandomLayer(300, 70, density, 16, 12), {1, 17}, 4);
    CheckLayer(RandomLayer(40, 1003, density, 40, 13), {1, 4});
  }
}

TEST(CodebookSizes) {
  for (uint32_t size : {1u, 2u, 3u, 4u, 8u, 15u, 16u, 17u, 32u, 33u, 64u, 129u, 255u, 256u}) {
    CheckLayer(RandomLayer(40, 200, 0.1, size, size), {1, 4});
    CheckLayer(RandomLayer(64, 700, 0.5, size, size), {1, 5});
  }
}

TEST(EveryGapWidth) {
  for (int gap_bits = 4; gap_bits <= 8; ++gap_bits) CheckLayer(RandomLayer(37, 513, 0.02, 16, 21), {1, 5}, gap_bits);
}

TEST(EmptyAndFullRows) {
  Layer layer = RandomLayer(50, 400, 0.1, 16, 31);
  for (uint32_t row : {0u, 1u, 17u, 30u, 31u, 49u}) {
    for (uint32_t c = 0; c < layer.cols; ++c) layer.codes[row * layer.cols + c] = row == 17 ? 3 : 0;
  }
  CheckLayer(layer, kBatches);
}

// Gaps of more columns than a step can move: there are steps without weights.
TEST(LongWaysBetweenWeights) {
  Layer layer{32, 9000, std::vector<uint8_t>(32 * 9000), {0.0f, -1.5f, 0.3f}};
  for (uint32_t row = 0; row < layer.rows; ++row) {
    for (uint32_t col : {0u, 255u, 256u, 1000u, 1001u, 5000u, 8998u, 8999u}) {
      for (uint32_t k = 0; k < 6; ++k) layer.codes[row * layer.cols + (col + k * row % 7) % layer.cols] = 1 + k % 2;
    }
  }
  CheckLayer(layer, {1, 4, 5});
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

// The largest sums: all weights 127 and all x 127; two products in 16 bits, a row in 32 and, with more columns, in 64.
TEST(TheLargestSums) {
  for (float sign : {1.0f, -1.0f}) {
    for (uint32_t cols : {100u, 5000u, 133143u, 133144u, 200000u}) {
      Layer layer{9, cols, std::vector<uint8_t>(size_t{9} * cols, 1), {0.0f, 2.0f * sign}};
      const Layouts layouts(layer);
      for (const FcLayout* layout : layouts.all()) {
        CheckForward(layer, layout, std::vector<float>(cols, -3.0f), {});
        CheckForward(layer, layout, std::vector<float>(cols, 3.0f), {});
      }
    }
  }
}

TEST(MoreColumnsThanSixteenBitsCount) {
  CheckLayer(RandomLayer(3, 70000, 0.01, 16, 51), {1, 5});
  CheckLayer(RandomLayer(33, 70000, 0.003, 16, 52), {1, 5});
}

TEST(ManyRowsMostOfThemEmpty) {
  CheckLayer(RandomLayer(70000, 3, 0.02, 16, 61), {1, 5});
  CheckLayer(Layer{1000, 3, std::vector<uint8_t>(3000), {0.0f, 1.0f}}, {1, 5});
}

TEST(RowsThatAreNotFiniteGiveNan) {
  Layer layer = RandomLayer(45, 333, 0.2, 16, 71);
  std::fill(layer.codes.begin() + 333, layer.codes.begin() + 666, uint8_t{0});
  for (const Layer& some : {layer, Layer{45, 333, std::vector<uint8_t>(45 * 333), {0.0f}}}) {
    const Layouts layouts(some);
    for (const FcLayout* layout : layouts.all()) {
      for (uint32_t at : {0u, 7u, 8u, 331u, 332u}) {
        std::vector<float> x = RandomVector(5 * some.cols, 73);
        x[some.cols + at] = kInf;
        x[3 * some.cols + at] = kNan;
        x[4 * some.cols + at] = -kInf;
        for (float x_scale : {0.0f, 0.01f}) CheckForward(some, layout, x, {5, true, -kInf, kInf, x_scale});
      }
    }
  }
}

TEST(ZerosGiveTheBias) {
  const Layer layer = RandomLayer(45, 333, 0.2, 16, 81);
  const std::vector<float> x(333), bias = RandomVector(45);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    std::vector<float> y(45);
    const Workspace workspace(layout, 1);
    FcCall call = {x.data(), 1, bias.data(), -kInf, kInf, y.data()};
    call.workspace = workspace.memory();
    FcForward(layout, call);
    EXPECT(y == bias, "%s", FcKernelName(layout));
  }
}

// float32 holds 2^24 / 127 in units of one weight's step: 1040 weights of 127, and one of 24 besides.
TEST(TilesTakeRowsOfWhichFloat32HoldsTheSums) {
  for (uint32_t cols : {1040u, 1041u, 1042u}) {
    for (uint8_t last : {1, 2}) {  // 24 and 25 of 127
      Layer layer{64, cols, std::vector<uint8_t>(size_t{64} * cols, 3), {0.0f, 24.0f, 25.0f, 127.0f}};
      for (uint32_t row = 0; row < layer.rows; ++row) layer.codes[size_t{row} * cols + cols - 1] = row == 17 ? last : 1;
      const Layouts layouts(layer);
      bool found = false, possible = false;
      for (const FcLayout* layout : layouts.all()) {
        found |= layout->kernel->input == Input::kInt8Tile;
        possible |= KernelFor({layout->kernel->isa, Activations::kInt8, 64})->input == Input::kInt8Tile;
        for (float x : {-3.0f, 3.0f}) CheckForward(layer, layout, std::vector<float>(3 * cols, x), {3});
      }
      const bool exact = cols == 1040 || (cols == 1041 && last == 1);
      EXPECT(found == (exact && possible), "%u columns, last code %d", cols, last);
    }
  }
}

// A tile that costs more than it saves: the layout is that for few batch rows, of the same instruction set.
TEST(FewWeightsTakeTheLayoutForRows) {
  const std::vector<uint8_t> packed = Pack(RandomLayer(9, 300, 0.1, 16, 91));
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk && view.num_kept < view.cols, "pack");
  for (Isa isa : kAllIsas) {
    if (!IsaSupported(isa)) continue;
    FcLayout *few = nullptr, *many = nullptr;
    EXPECT(MakeFcLayout(view, {isa, Activations::kInt8, 1}, &few) == Status::kOk, "%s", IsaName(isa));
    EXPECT(MakeFcLayout(view, {isa, Activations::kInt8, 64}, &many) == Status::kOk, "%s", IsaName(isa));
    const bool is_quads = std::strstr(few->kernel->name, "quads") != nullptr;
    EXPECT(is_quads || isa == Isa::kReference || isa == Isa::kScalar, "%s: %s", IsaName(isa), few->kernel->name);
    EXPECT(few->kernel == many->kernel, "%s: %s and %s", IsaName(isa), few->kernel->name, many->kernel->name);
    FreeFcLayout(few);
    FreeFcLayout(many);
  }
}

// From 8 batch rows on tiles take less time where at most a sixteenth of the weights is kept, from 16 on of all layers.
TEST(TilesOfFewWeightsTakeFewerBatchRows) {
  if (!IsaSupported(Isa::kAvx2)) return;
  for (uint32_t kept : {500u, 501u}) {
    Layer layer{20, 400, std::vector<uint8_t>(8000), {0.0f, 1.0f}};
    std::fill_n(layer.codes.begin(), kept, uint8_t{1});
    const std::vector<uint8_t> packed = Pack(layer);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk && view.num_kept == kept, "pack");
    for (size_t batch : {1, 7, 8, 15, 16, 1000}) {
      FcLayout* layout = nullptr;
      EXPECT(MakeFcLayout(view, {Isa::kAvx2, Activations::kInt8, batch}, &layout) == Status::kOk, "%zu", batch);
      const bool is_tile = std::strcmp(FcKernelName(layout), "s8_fc_tile__avx2") == 0;
      const size_t fewest = kept == 500 ? 8 : 16;
      EXPECT(is_tile == (batch >= fewest), "%u kept, batch %zu: %s", kept, batch, FcKernelName(layout));
      FreeFcLayout(layout);
    }
  }
}

// What threads share: each part alone, and portions as `split` cuts them.
TEST(PartsGiveTheSameTogetherAndAlone) {
  const Layer layer = RandomLayer(150, 500, 0.1, 16, 96);
  const std::vector<float> x = RandomVector(5 * 500, 97);
  std::vector<int8_t> values(5 * 512);
  float scales[5], tile_scales[8];
  alignas(kAlignment) static float tile[500 * 8];
  for (size_t b = 0; b < 5; ++b) scales[b] = QuantizeRow(&x[b * 500], 500, 512, 0.0f, &values[b * 512]);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    const FcKernel& kernel = *layout->kernel;
    std::vector<float> together(5 * 150, kGuard), alone(5 * 150, kGuard), shared(5 * 150, kGuard);
    RowBlock rows = {values.data(), 5, 512, scales, nullptr, -kInf, kInf, together.data(), 150};
    if (kernel.input == Input::kInt8Tile) {
      rows.x = tile;
      rows.stride = 8;
      LoadTile(x.data(), 5, 500, 500, 8, tile);
      QuantizeTile(layout, 0.0f, tile, tile_scales, rows);
      EXPECT(std::equal(scales, scales + 5, tile_scales), "%s: the rows' scales", kernel.name);
      rows.scales = tile_scales;
    }
    kernel.forward(layout, rows, 0, layout->num_parts);
    rows.y = alone.data();
    for (uint32_t part = layout->num_parts; part-- > 0;) kernel.forward(layout, rows, part, part + 1);
    EXPECT(together == alone, "%s", kernel.name);
    if (kernel.split == nullptr) continue;
    rows.y = shared.data();
    uint32_t cuts[4] = {0, kernel.split(layout, 1, 3), kernel.split(layout, 2, 3), layout->num_parts};
    for (int share = 0; share < 3; ++share) {
      const bool is_small = layout->num_parts < 3;  // tiles have parts of many rows
      EXPECT(is_small || cuts[share] < cuts[share + 1], "%s share %d", kernel.name, share);
      kernel.forward(layout, rows, cuts[share], cuts[share + 1]);
    }
    EXPECT(together == shared, "%s", kernel.name);
  }
}

// Of what is computed: dx = dy W with the quantized W.
TEST(Gradients) {
  const Layer layer = RandomLayer(45, 333, 0.2, 16, 97);
  const float w_scale = StepOf(layer.codebook.data(), layer.codebook.size(), 0.0f);
  const std::vector<float> dy = RandomVector(3 * 45, 98);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    std::vector<float> dx(3 * 333);
    FcBackward(layout, dy.data(), 3, dx.data());
    double worst = 0.0;
    for (size_t i = 0; i < dx.size(); ++i) {
      double want = 0.0;
      for (uint32_t r = 0; r < 45; ++r) {
        const float w = layer.codebook[layer.codes[r * 333 + i % 333]];
        want += double{w_scale} * Quantized(w, w_scale) * dy[i / 333 * 45 + r];
      }
      worst = std::fmax(worst, std::fabs(dx[i] - want));
    }
    EXPECT(worst < 1e-5, "%s: %g", FcKernelName(layout), worst);  // sums of 9 products of size 1 in float32
  }
}

// 36 bytes that claim as many rows or columns as the format allows: nothing may be spent on the claim.
TEST(LayoutsFollowTheBytesAndNotTheClaimedSizes) {
  for (bool tall : {true, false}) {
    std::vector<uint8_t> packed = Pack(Layer{1, 1, {0}, {0.0f}});
    Put32(INT32_MAX, packed.data() + (tall ? 8 : 12));
    Seal(&packed);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "allowed");
    for (Isa isa : kAllIsas) {
      FcLayout* layout = nullptr;
      if (!IsaSupported(isa)) continue;
      EXPECT(MakeFcLayout(view, {isa, Activations::kInt8}, &layout) == Status::kOk, "%s", IsaName(isa));
      EXPECT(layout == nullptr || FcLayoutBytes(layout) < 4096, "%s", IsaName(isa));
      FreeFcLayout(layout);
    }
  }
}

// Nine and four of a hundred weights are what AlexNet's and VGG-16's large layers keep, a quarter their last ones.
// Of 65 to 128 values no kernel has codes of 7 bits; with AVX-512's 16 lanes, int8 weights are above 1.6 where 4 % is
// kept.
TEST(LargeLayersTakeAtMostSoManyTimesTheirEntries) {
  struct {
    uint32_t rows, cols;
    double density;
  } const cases[] = {{512, 4096, 0.09}, {600, 8192, 0.04}, {300, 4096, 0.25}};
  for (const auto& c : cases) {
    for (uint32_t codebook_size : {16u, 32u, 64u, 128u, 256u}) {
      const Layer layer = RandomLayer(c.rows, c.cols, c.density, codebook_size);
      const std::vector<uint8_t> packed = Pack(layer, 5);
      PackedView view;
      EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
      for (Isa isa : kAllIsas) {
        if (!IsaSupported(isa)) continue;
        FcLayout* layout = nullptr;
        EXPECT(MakeFcLayout(view, {isa, Activations::kInt8, 1}, &layout) == Status::kOk, "layout");
        const double times = static_cast<double>(FcLayoutBytes(layout)) / keras_prune_bench::EntryBytes(view);
        const double most = isa == Isa::kAvx512Vbmi && codebook_size == 128 ? 1.68 : 1.6;
        EXPECT(times <= most, "%s %ux%u, %u values: %.3f", IsaName(isa), c.rows, c.cols, codebook_size, times);
        if (codebook_size == 32) CheckForward(layer, layout, RandomVector(layer.cols), {});
        FreeFcLayout(layout);
      }
    }
  }
}

// With few rows most slots of the vector kernels would be fillers: the scalar layout stands in.
TEST(FewRowsTakeTheScalarLayout) {
  struct {
    uint32_t rows, cols;
    double density;
    bool scalar;
  } const cases[] = {{1, 25088, 0.1, true},    {1, 70000, 0.5, true},    {10, 84, 0.3, false},
                     {100, 300, 0.09, false},  {300, 784, 0.08, false},  {500, 9216, 0.09, false},
                     {500, 25088, 0.04, false}, {1000, 4096, 0.25, false}};
  for (const auto& c : cases) {
    const Layer layer = RandomLayer(c.rows, c.cols, c.density, 16, c.rows);
    const Layouts layouts(layer);
    for (const FcLayout* layout : layouts.all()) {
      const bool is_scalar = std::strcmp(FcKernelName(layout), "s8_fc_csr__scalar") == 0;
      const bool is_vector = std::strstr(FcKernelName(layout), "quads") != nullptr;
      CheckForward(layer, layout, RandomVector(layer.cols), {});
      if (is_vector) EXPECT(!c.scalar, "%s %ux%u", FcKernelName(layout), c.rows, c.cols);
      const bool is_fewer_than_columns = layer.rows * c.density < 1.1;  // a tile of x would cost more than it saves
      if (!c.scalar) EXPECT(!is_scalar || layout == layouts.all()[1] || is_fewer_than_columns, "%ux%u", c.rows, c.cols);
    }
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
