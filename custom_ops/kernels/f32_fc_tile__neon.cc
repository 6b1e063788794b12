// NEON, for batches: a kept weight is multiplied by 8 to 32 neighbours.
#include "tile_forward.h"

#include <arm_neon.h>

namespace keras_prune {
namespace {

struct Neon {
  using Vector = float32x4_t;
  static constexpr size_t kWidth = 4;
  static Vector Load(const float* from) { return vld1q_f32(from); }
  static void Store(Vector v, float* to) { vst1q_f32(to, v); }
  static Vector Broadcast(const float* value) { return vld1q_dup_f32(value); }
  static Vector Add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector Multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return vfmaq_f32(sum, a, b); }
  // As the other kernels do it to the bit: NaN stays NaN, and -0 is not below 0.
  static Vector Clamp(Vector v, Vector low, Vector high) {
    v = vbslq_f32(vcltq_f32(v, low), low, v);
    return vbslq_f32(vcgtq_f32(v, high), high, v);
  }
};

}  // namespace

const FcKernel kFcTileNeon = {
    "f32_fc_tile__neon", Isa::kNeon, Input::kTile, kTileWidth, MakeTileLayout,
    ForwardTile<Neon>, TileSplit, TileBackward, nullptr, kTileStep};

}  // namespace keras_prune
