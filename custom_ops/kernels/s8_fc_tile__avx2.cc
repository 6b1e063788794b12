// AVX2, int8 activations of batches.
#include "s8_fc_tile.h"

namespace keras_prune {

const FcKernel kFcS8TileAvx2 = {
    "s8_fc_tile__avx2", Isa::kAvx2, Input::kInt8Tile, kTileWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileAvx2>, TileSplit, BackwardInt8Tile, nullptr, kTileStep};

}  // namespace keras_prune
