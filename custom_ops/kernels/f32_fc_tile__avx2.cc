// AVX2, for batches: a kept weight is multiplied by 8 to 32 neighbours.
#include "tile_forward.h"

#include <immintrin.h>

namespace keras_prune {
namespace {

struct Avx2 {
  using Vector = __m256;
  static constexpr size_t kWidth = 8;
  static Vector Load(const float* from) { return _mm256_load_ps(from); }
  static void Store(Vector v, float* to) { _mm256_store_ps(to, v); }
  static Vector Broadcast(const float* value) { return _mm256_broadcast_ss(value); }
  static Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
  // The second operand where one is NaN.
  static Vector Clamp(Vector v, Vector low, Vector high) { return _mm256_min_ps(high, _mm256_max_ps(low, v)); }
};

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  switch (rows.stride) {
    case 8: return ForwardTileParts<Avx2, 1>(layout, rows, first, end);
    case 16: return ForwardTileParts<Avx2, 2>(layout, rows, first, end);
    case 24: return ForwardTileParts<Avx2, 3>(layout, rows, first, end);
    default: return ForwardTileParts<Avx2, 4>(layout, rows, first, end);
  }
}

}  // namespace

const FcKernel kFcTileAvx2 = {
    "f32_fc_tile__avx2", Isa::kAvx2, Input::kTile, kTileWidth, MakeTileLayout,
    Forward, TileSplit, TileBackward, nullptr, kTileStep};

}  // namespace keras_prune
