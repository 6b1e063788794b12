// Portable, int8 activations of batches.
#include "s8_fc_tile.h"

namespace keras_prune {
namespace {

constexpr size_t kWidth = 16;  // as the float32 kernel's

}  // namespace

const FcKernel kFcS8TileScalar = {
    "s8_fc_tile__scalar", Isa::kScalar, Input::kInt8Tile, kWidth, MakeInt8Tile,
    ForwardInt8Tile<&kFcTileScalar>, TileSplit, BackwardInt8Tile, nullptr, kTileStep, QuantizeInt8Tile};

}  // namespace keras_prune
