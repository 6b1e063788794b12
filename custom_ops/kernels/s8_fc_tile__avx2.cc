// AVX2, int8 activations of batches.
#include "s8_fc_tile.h"

namespace keras_prune {
namespace {

// A tile's time follows the kept weights; s8_fc_quads', row by row, follows its steps, in which few of many columns
// find a weight. Tiles against these with 8, 12 and 15 batch rows, as shares of their time (Zen 4, shared): 4096x4096 at
// 2 % .64, .66 and .54, VGG's fc6 at 4 % .68, .84 and .50, 1024x1024 at 5 % .95, .75 and .84, 1024x4096 at 5 % 1.01, 1.03
// and .84, AlexNet's fc6 at 9 % 1.03, 1.05 and .81, 784x300 at 10 % 1.35, 1.36 and 1.13, AlexNet's fc8 at 25 % 1.72,
// 1.52 and 1.15.
constexpr uint64_t kThin = 16;  // weights of which one is kept

Status MakeThinTile(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  if (packed.num_kept * kThin <= uint64_t{packed.rows} * packed.cols) return MakeInt8Tile(packed, &kFcS8TileAvx2, out);
  const FcKernel* rows = KernelFor({kernel->isa, Activations::kInt8, 1});
  return rows->make(packed, rows, out);
}

}  // namespace

const FcKernel kFcS8TileAvx2 = {
    "s8_fc_tile__avx2", Isa::kAvx2, Input::kInt8Tile, kTileWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileAvx2>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

const FcKernel kFcS8ThinTileAvx2 = {
    "s8_fc_tile__avx2", Isa::kAvx2, Input::kInt8Tile, kTileWidth, MakeThinTile,
    ForwardInt8Tile<&kFcTileAvx2>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

}  // namespace keras_prune
