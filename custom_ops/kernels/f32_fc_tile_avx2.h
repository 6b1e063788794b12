// AVX2's vectors of the kernels on tiles, and AVX-512's for 8 and 24 batch rows; internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_F32_FC_TILE_AVX2_H_
#define KERAS_PRUNE_KERNELS_F32_FC_TILE_AVX2_H_

#include "tile_forward.h"
#include "x86_intrinsics.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

struct Avx2 {
  using Vector = __m256;
  static constexpr size_t kWidth = 8;
  static Vector Load(const float* from) { return _mm256_load_ps(from); }
  static void Store(Vector v, float* to) { _mm256_store_ps(to, v); }
  static Vector Broadcast(const float* value) { return _mm256_broadcast_ss(value); }
  static Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector Multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
  // The second operand where one is NaN.
  static Vector Clamp(Vector v, Vector low, Vector high) { return _mm256_min_ps(high, _mm256_max_ps(low, v)); }
};

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_F32_FC_TILE_AVX2_H_
