#include "mask.h"

namespace keras_prune {

void ApplyMask(Isa isa, const float* w, const uint8_t* mask, size_t count, float* y) {
#if defined(__x86_64__)
  // The memory's speed is the limit from 8 weights at once on: AVX-512 has no file of its own.
  if (isa >= Isa::kAvx2 && isa <= Isa::kAvx512Vbmi) return ApplyMaskAvx2(w, mask, count, y);
#endif
  (void)isa;
  ApplyMaskScalar(w, mask, count, y);
}

}  // namespace keras_prune
