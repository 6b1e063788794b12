#include <string.h>

#include "mask.h"

namespace keras_prune {

void ApplyMaskScalar(const float* w, const uint8_t* mask, size_t count, float* y) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    memcpy(&bits, w + i, sizeof bits);
    bits &= -static_cast<uint32_t>(mask[i] != 0);
    memcpy(y + i, &bits, sizeof bits);
  }
}

}  // namespace keras_prune
