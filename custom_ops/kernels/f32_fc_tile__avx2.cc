// AVX2, for batches: a kept weight is multiplied by 8 to 32 neighbours.
#include "f32_fc_tile_avx2.h"

namespace keras_prune {

const FcKernel kFcTileAvx2 = {
    "f32_fc_tile__avx2", Isa::kAvx2, Input::kTile, kTileWidth, MakeTileLayout,
    ForwardTile<Avx2>, TileSplit, TileBackward, nullptr, kTileStep};

}  // namespace keras_prune
