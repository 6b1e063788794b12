// AVX-512, int8 activations of batches.
#include "s8_fc_tile.h"

namespace keras_prune {

const FcKernel kFcS8TileAvx512 = {
    "s8_fc_tile__avx512", Isa::kAvx512, Input::kInt8Tile, kTileWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileAvx512>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

}  // namespace keras_prune
