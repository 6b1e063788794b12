// Portable, for batches: vectors of the compiler's own, which it takes apart where the processor has none.
#include <string.h>

#include "tile_forward.h"

namespace keras_prune {
namespace {

struct Portable {
  using Vector = float __attribute__((vector_size(16)));
  static constexpr size_t kWidth = 4;
  static Vector Load(const float* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
  }
  static void Store(Vector v, float* to) { memcpy(to, &v, sizeof v); }
  static Vector Broadcast(const float* value) { return Vector{*value, *value, *value, *value}; }
  static Vector Add(Vector a, Vector b) { return a + b; }
  static Vector Multiply(Vector a, Vector b) { return a * b; }
  static Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return a * b + sum; }
  static Vector Clamp(Vector v, Vector low, Vector high) {
    for (size_t i = 0; i < kWidth; ++i) {
      v[i] = v[i] < low[i] ? low[i] : v[i];
      v[i] = v[i] > high[i] ? high[i] : v[i];
    }
    return v;
  }
};

constexpr size_t kWidth = 16;  // batch rows: eight registers of sums, of sixteen that x86-64 has

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  rows.stride == 8 ? ForwardTileParts<Portable, 8>(layout, rows, first, end)
                   : ForwardTileParts<Portable, kWidth>(layout, rows, first, end);
}

}  // namespace

const FcKernel kFcTileScalar = {
    "f32_fc_tile__scalar", Isa::kScalar, Input::kTile, kWidth, MakeTileLayout,
    Forward, TileSplit, TileBackward, nullptr, kTileStep};

}  // namespace keras_prune
