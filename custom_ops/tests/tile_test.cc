// The layout for many batch rows: its choice, every width of tiles, its blocks and parts, its size.
#include <string>

#include "../kernels/inputs.h"
#include "../kernels/tile.h"
#include "forward.h"

namespace keras_prune_test {
namespace {

std::string NameFor(const PackedView& view, const FcOptions& options) {
  FcLayout* layout = nullptr;
  EXPECT(MakeFcLayout(view, options, &layout) == Status::kOk, "%s", IsaName(options.isa));
  const std::string name = layout != nullptr ? FcKernelName(layout) : "";
  FreeFcLayout(layout);
  return name;
}

TEST(FromFourBatchRowsOn) {
  const std::vector<uint8_t> packed = Pack(RandomLayer(64, 100, 0.2, 16));
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  for (Isa isa : SupportedIsas()) {
    if (isa == Isa::kReference) continue;
    for (size_t batch : {0, 1, 3, 4, 5, 1000}) {
      const std::string name = NameFor(view, {isa, Activations::kFloat32, batch});
      EXPECT((name.find("_tile__") != std::string::npos) == (batch >= 4), "%s batch %zu", name.c_str(), batch);
    }
  }
}

// Making the tile takes as long as a weight in every column saves.
TEST(FewWeightsTakeTheLayoutForRows) {
  for (uint32_t kept : {0u, 99u, 100u}) {
    Layer layer{20, 100, std::vector<uint8_t>(2000), {0.0f, 1.0f}};
    for (uint32_t i = 0; i < kept; ++i) layer.codes[i * 17] = 1;
    const std::vector<uint8_t> packed = Pack(layer);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk && view.num_kept == kept, "pack");
    const std::string name = NameFor(view, {Isa::kScalar, Activations::kFloat32, 64});
    EXPECT(name == (kept < 100 ? "f32_fc_csr__scalar" : "f32_fc_tile__scalar"), "%u: %s", kept, name.c_str());
  }
}

// What the columns of a file need, also where size_t has 32 bits.
TEST(SizesOfManyColumnsAreTold) {
  FcLayout layout = {};
  layout.kernel = &kFcTileScalar;
  layout.cols = 1u << 27;
  for (size_t batch : {4, 8}) {
    EXPECT(FcWorkspaceBytes(&layout, batch, 1) == uint64_t{1} << 32, "a tile of eight for %zu", batch);
  }
  EXPECT(FcWorkspaceBytes(&layout, 64, 3) == uint64_t{3} << 33, "three tiles of sixteen");
  layout.kernel = &kFcS8Scalar;
  layout.cols = INT32_MAX;
  EXPECT(FcWorkspaceBytes(&layout, 100, 1) == uint64_t{1} << 37, "64 rows of int8");
}

TEST(EveryNumberOfBatchRows) {
  std::vector<size_t> batches;
  for (size_t batch = 0; batch <= 2 * kTileWidth + 1; ++batch) batches.push_back(batch);
  CheckLayer(RandomLayer(21, 70, 0.3, 16, 1), batches);
  CheckLayer(RandomLayer(21, 70, 0.3, 17, 2), batches);
}

TEST(BlocksAndParts) {
  for (uint32_t cols : {1u, 255u, 256u, 257u, 511u, 512u, 513u, 1100u}) {
    for (uint32_t rows : {1u, 4u, 255u, 256u, 257u, 600u}) {
      if (rows * cols < 400000) CheckLayer(RandomLayer(rows, cols, 0.1, rows % 2 == 0 ? 16 : 40, rows + cols), {9});
      if (rows * cols < 100000) CheckLayer(RandomLayer(rows, cols, 1.0, 16, rows + cols), {5});
    }
  }
}

// Blocks without weights are not listed.
TEST(FewBlocksOfManyColumns) {
  Layer layer{40, 30000, std::vector<uint8_t>(1200000), {0.0f, 1.0f, -2.5f}};
  for (size_t row = 0; row < 40; ++row) {
    for (size_t i = 0; i < 400; ++i) layer.codes[row * 30000 + (row % 2 != 0 ? 29600 : 7001 + row) + i] = 1 + i % 2;
  }
  CheckLayer(layer, {1, 8, 33});
}

TEST(EmptyRowsBetweenOthers) {
  Layer layer = RandomLayer(700, 60, 0.5, 16, 4);
  for (uint32_t row = 0; row < layer.rows; ++row) {
    if (row % 5 == 0 || (row > 100 && row < 350)) memset(&layer.codes[row * layer.cols], 0, layer.cols);
  }
  CheckLayer(layer, {4, 31, 64});
}

// Two bytes an entry at most are promised for the layer of the largest net: 1.6 times what its packed entries have.
TEST(SmallerThanThePackedEntriesBySixteenTenths) {
  struct {
    uint32_t rows, cols;
    double density;
    int gap_bits;
  } const cases[] = {{300, 784, 0.08, 5}, {256, 25088, 0.04, 6}, {256, 9216, 0.09, 5}, {512, 4096, 0.25, 4}};
  for (const auto& c : cases) {
    const std::vector<uint8_t> packed = Pack(RandomLayer(c.rows, c.cols, c.density, 16), c.gap_bits);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
    FcLayout* layout = nullptr;
    EXPECT(MakeFcLayout(view, {Isa::kScalar, Activations::kFloat32, 64}, &layout) == Status::kOk, "make");
    const double entries = view.num_entries * (view.gap_bits + view.code_bits) / 8.0;
    const double ratio = FcLayoutBytes(layout) / entries;
    EXPECT(ratio <= 1.6, "%ux%u: %.2f", c.rows, c.cols, ratio);
    FreeFcLayout(layout);
  }
}

TEST(TilesOfRowsThatLieAnywhere) {
  for (size_t count : {1, 3, 4, 7, 8, 13, 32}) {
    for (size_t cols : {1, 3, 4, 15, 16, 17, 50}) {
      const size_t width = (count + kTileStep - 1) / kTileStep * kTileStep, stride = cols + 5;
      const std::vector<float> x = RandomVector((count - 1) * stride + cols);
      std::vector<float> tile(cols * width);
      LoadTile(x.data(), count, stride, cols, width, tile.data());
      size_t wrong = 0;
      for (size_t b = 0; b < count; ++b) {
        for (size_t col = 0; col < cols; ++col) wrong += tile[col * width + b] != x[b * stride + col];
      }
      EXPECT(wrong == 0, "%zu rows of %zu columns: %zu", count, cols, wrong);
    }
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
