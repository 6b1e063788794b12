#include <immintrin.h>

#include "mask.h"

namespace keras_prune {

void ApplyMaskAvx2(const float* w, const uint8_t* mask, size_t count, float* y) {
  constexpr size_t kLanes = 8;
  const __m256i zero = _mm256_setzero_si256();
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + i));
    const __m256i pruned = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), zero);
    const __m256 kept = _mm256_andnot_ps(_mm256_castsi256_ps(pruned), _mm256_loadu_ps(w + i));
    _mm256_storeu_ps(y + i, kept);
  }
  ApplyMaskScalar(w + i, mask + i, count - i, y + i);
}

}  // namespace keras_prune
