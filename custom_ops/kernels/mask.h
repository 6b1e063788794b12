// Masks of training: y = mask ? w : 0 in one pass over the weights, which stock operators need three for.
#ifndef KERAS_PRUNE_KERNELS_MASK_H_
#define KERAS_PRUNE_KERNELS_MASK_H_

#include <cstddef>
#include <cstdint>

#include "fully_connected.h"

namespace keras_prune {

// y[i] = mask[i] != 0 ? w[i] : +0.0, bit for bit: a NaN or a negative zero does not survive where the mask is 0.
// `w` and `y` are the same array or do not overlap; nothing needs to be aligned.
void ApplyMask(Isa isa, const float* w, const uint8_t* mask, size_t count, float* y);

// One file f32_mask_dense__<isa>.cc each.
void ApplyMaskScalar(const float* w, const uint8_t* mask, size_t count, float* y);
#if defined(__x86_64__)
void ApplyMaskAvx2(const float* w, const uint8_t* mask, size_t count, float* y);
#endif

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_MASK_H_
