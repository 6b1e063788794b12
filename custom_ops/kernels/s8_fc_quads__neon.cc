// NEON (64-bit ARM), int8 activations: products of 16 bits, added by pairs.
#include "s8_fc_quads_neon.h"

namespace keras_prune {
namespace {

// Two sums of each of four rows.
struct PairwiseSums {
  int32x4_t first_two = vdupq_n_s32(0), last_two = vdupq_n_s32(0);
  void Add(int8x16_t x, int8x16_t w) {
    first_two = vpadalq_s16(first_two, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
    last_two = vpadalq_s16(last_two, vmull_high_s8(x, w));
  }
  int32x4_t Rows() const { return vpaddq_s32(first_two, last_two); }
};

}  // namespace

const FcKernel kFcS8Neon = {"s8_fc_quads__neon", Isa::kNeon, Input::kInt8Rows, 0, Make, Forward<PairwiseSums>,
                            QuadsSplit, QuadsBackward};

}  // namespace keras_prune
