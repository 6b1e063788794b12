// NEON with the dot-product extension, int8 activations: `sdot` sums a row's four products.
#include "s8_fc_quads_neon.h"

namespace keras_prune {
namespace {

struct DotSums {
  int32x4_t rows = vdupq_n_s32(0);
  void Add(int8x16_t x, int8x16_t w) { rows = vdotq_s32(rows, x, w); }
  int32x4_t Rows() const { return rows; }
};

}  // namespace

const FcKernel kFcS8NeonDot = {"s8_fc_quads__neondot", Isa::kNeonDot, Input::kInt8Rows, 0, Make, Forward<DotSums>,
                               QuadsSplit, QuadsBackward};

}  // namespace keras_prune
