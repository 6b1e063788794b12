// NEON with the dot-product extension, int8 activations of batches: as NEON, but where rows do better, `sdot` takes them.
#include "s8_fc_tile.h"

namespace keras_prune {

const FcKernel kFcS8TileNeonDot = {
    "s8_fc_tile__neondot", Isa::kNeonDot, Input::kInt8Tile, kTileWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileNeon>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

}  // namespace keras_prune
