// Balanced patterns, K kept weights in every block of columns of every row, need no fillers: the bytes are exact.
#include "../kernels/sell16.h"
#include "../kernels/tile.h"
#include "packing.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

Layer BalancedLayer(uint32_t rows, uint32_t cols, uint32_t block, uint32_t kept) {
  Layer layer{rows, cols, std::vector<uint8_t>(size_t{rows} * cols), {0.0f, 1.0f, -2.0f, 3.5f}};
  std::mt19937 random(rows + cols + block);
  for (size_t first = 0; first < layer.codes.size(); first += block) {
    for (uint32_t left = kept; left != 0;) {
      uint8_t& code = layer.codes[first + random() % block];
      if (code != 0) continue;
      code = static_cast<uint8_t>(1 + random() % 3);
      --left;
    }
  }
  return layer;
}

size_t Aligned(size_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Blocks within the window, which begin where windows may; rows that fill the slices.
TEST(EveryWindowWithoutFillers) {
  for (uint32_t window : {16u, 32u, 64u, 128u, 256u}) {
    for (uint32_t block : {16u, 32u, 64u, 128u, 256u}) {
      if (block > window) continue;
      for (uint32_t kept : {1u, 3u, block / 4, block}) {
        const uint32_t rows = 48, cols = 512;
        const std::vector<uint8_t> packed = Pack(BalancedLayer(rows, cols, block, kept));
        PackedView view;
        EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
        Sell16Builder builder(view);
        EXPECT(builder.Scan() == Status::kOk, "scan");
        const Sell16Shape shape = {window, false};
        const uint64_t pairs = builder.CountGroups(shape);
        EXPECT(pairs * kPairSlots == view.num_kept, "window %u, block %u, %u kept: %zu slots for %u", window, block,
               kept, static_cast<size_t>(pairs * kPairSlots), view.num_kept);
        FcLayout* layout = nullptr;
        EXPECT(builder.Build(shape, pairs, &kFcScalar, &layout) == Status::kOk, "build");
        const size_t bytes = Aligned(sizeof(Sell16Layout)) + Aligned(4 * (rows / kLanes + 1)) + Aligned(2 * rows) +
                             Aligned(2 * pairs) + Aligned(view.num_kept) + Aligned(view.num_kept / 2);
        EXPECT(FcLayoutBytes(layout) == bytes, "%zu, not %zu", FcLayoutBytes(layout), bytes);
        FreeFcLayout(layout);
      }
    }
  }
}

// Two parts of 200 rows, each with two blocks of 256 columns, of which every row keeps 16: one run of rows a block.
TEST(TilesWithoutFillers) {
  const uint32_t rows = 400, cols = 512;
  const std::vector<uint8_t> packed = Pack(BalancedLayer(rows, cols, 64, 4));
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk && view.num_kept == rows * 32, "pack");
  FcLayout* layout = nullptr;
  EXPECT(MakeTileLayout(view, &kFcTileScalar, &layout) == Status::kOk, "make");
  const auto& w = *static_cast<const TileLayout*>(layout);
  EXPECT(w.num_parts == 2 && w.part_rows == 200 && w.first_block[2] == 4, "%u parts of %u rows, %u blocks", w.num_parts,
         w.part_rows, w.first_block[2]);
  const TileBlock& end = w.blocks[4];
  EXPECT(end.row == 2 * rows && end.run == 4 && end.entry == view.num_kept && end.code == view.num_kept / 2,
         "%u rows, %u runs, %u entries, %u bytes of codes", end.row, end.run, end.entry, end.code);
  const size_t bytes = Aligned(sizeof(TileLayout)) + Aligned(4 * rows) + Aligned(4 * 3) +
                       Aligned(5 * sizeof(TileBlock)) + Aligned(2 * rows) + Aligned(2 * 4) + Aligned(view.num_kept) +
                       Aligned(view.num_kept / 2);
  EXPECT(FcLayoutBytes(layout) == bytes, "%zu, not %zu", FcLayoutBytes(layout), bytes);
  FreeFcLayout(layout);
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
