// NEON (64-bit ARM), int8 activations of batches.
#include "s8_fc_tile.h"

namespace keras_prune {

const FcKernel kFcS8TileNeon = {
    "s8_fc_tile__neon", Isa::kNeon, Input::kInt8Tile, kTileWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileNeon>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

}  // namespace keras_prune
