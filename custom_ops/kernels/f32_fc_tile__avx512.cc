// AVX-512, for batches: a kept weight is multiplied by 16 or 32 neighbours; where 8 or 24 do, in registers of 8.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "f32_fc_tile_avx2.h"
#include "x86_intrinsics.h"

namespace keras_prune {
namespace {

// The second operand of the minimum and the maximum stays where one is NaN.
struct Wide {
  using Vector = __m512;
  static constexpr size_t kWidth = 16;
  static Vector Load(const float* from) { return _mm512_load_ps(from); }
  static void Store(Vector v, float* to) { _mm512_store_ps(to, v); }
  static Vector Broadcast(const float* value) { return _mm512_set1_ps(*value); }
  static Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector Multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }
  static Vector Clamp(Vector v, Vector low, Vector high) { return _mm512_min_ps(high, _mm512_max_ps(low, v)); }
};

}  // namespace

const FcKernel kFcTileAvx512 = {
    "f32_fc_tile__avx512", Isa::kAvx512, Input::kTile, kTileWidth, MakeTileLayout,
    ForwardTile<Wide, Avx2>, TileSplit, TileBackward, nullptr, kTileStep};

}  // namespace keras_prune
