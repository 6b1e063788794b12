// What the int8 kernels share: the arithmetic that must give the same bits on every instruction set.
//
//   y = clamp(float(sum of xq * wq) * (x_scale * w_scale) + bias, low, high)
//
// xq and wq are whole numbers from -127 to 127, the sum is exact, and so only four roundings to float32 are left, always
// in this order.
#ifndef KERAS_PRUNE_KERNELS_INT8_H_
#define KERAS_PRUNE_KERNELS_INT8_H_

#include "inputs.h"
#include "kernel.h"

namespace keras_prune {

// The codebook as a row of activations: by code; 0 for code 0 and for codes that are not used.
struct Int8Codebook {
  int8_t values[256];
  float scale;  // 0 for a codebook without other values than zero
};
void QuantizeCodebook(const PackedView& packed, Int8Codebook* out);

// Rows with more kept weights could pass 32 bits; the scalar kernel, which sums in 64, takes their layers.
constexpr uint32_t kMostInt8Weights = INT32_MAX / (127 * 127);

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

constexpr float kMostInt8 = 127.0f;
constexpr float kSmallestStep = 0x1p-126f;  // the smallest normal float32: its inverse is finite
constexpr uint32_t kInfinityBits = 0x7F800000u, kSmallestBits = 1;

// One step of a row whose largest |x| has these bits; `scale` is the caller's, or 0.
inline float StepOf(uint32_t largest, float scale) {
  if (largest >= kInfinityBits) return __builtin_nanf("");
  if (largest == 0) return 0.0f;
  if (scale == 0.0f) scale = FloatFromBits(largest) / kMostInt8;
  return scale < kSmallestStep ? kSmallestStep : scale;
}

inline uint32_t MagnitudeBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits & 0x7FFFFFFFu;
}

// NaN becomes kMostInt8: its row has no results but NaN.
inline int32_t QuantizeValue(float value, float inverse) {
  value *= inverse;
  value += value < 0.0f ? -0.5f : 0.5f;
  value = value < kMostInt8 ? value : kMostInt8;
  return static_cast<int32_t>(value > -kMostInt8 ? value : -kMostInt8);
}

// QuantizeRow by vectors: Simd::Largest and Simd::Quantize do the first values of x, as many as they like, and say how
// many; Simd::Largest with the bits of their largest |x|.
template <typename Simd>
float QuantizeBy(const float* x, size_t size, size_t stride, float scale, int8_t* values) {
  uint32_t largest = 0;
  for (size_t i = Simd::Largest(x, size, &largest); i < size; ++i) {
    const uint32_t magnitude = MagnitudeBits(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  scale = StepOf(largest, scale);
  if (!(scale > 0.0f)) {
    __builtin_memset(values, 0, stride);
    return scale;
  }
  const float inverse = 1.0f / scale;
  for (size_t i = Simd::Quantize(x, size, inverse, values); i < size; ++i) {
    values[i] = static_cast<int8_t>(QuantizeValue(x[i], inverse));
  }
  if (size < stride) __builtin_memset(values + size, 0, stride - size);
  return scale;
}

inline float Int8Result(float sum, float scale, const RowBlock& out, uint32_t row) {
  float v = sum * scale + (out.bias != nullptr ? out.bias[row] : 0.0f);
  v = v < out.low ? out.low : v;
  return v > out.high ? out.high : v;
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_INT8_H_
