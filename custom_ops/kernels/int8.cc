#include "int8.h"

#include <string.h>

namespace keras_prune {

void QuantizeCodebook(const PackedView& packed, Int8Codebook* out) {
  float codebook[256] = {};
  for (uint32_t code = 0; code < packed.codebook_size; ++code) codebook[code] = CodebookValue(packed, code);
  out->scale = QuantizeRow(codebook, 256, 256, 0.0f, out->values);
}

float QuantizeRow(const float* x, size_t size, size_t stride, float scale, int8_t* values) {
  uint32_t largest = 0;
  for (size_t i = 0; i < size; ++i) {
    const uint32_t magnitude = MagnitudeBits(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  scale = StepOf(largest, scale);
  if (!(scale > 0.0f)) {
    memset(values, 0, stride);
    return scale;
  }
  const float inverse = 1.0f / scale;
  for (size_t i = 0; i < size; ++i) values[i] = QuantizeValue(x[i], inverse);
  if (size < stride) memset(values + size, 0, stride - size);
  return scale;
}

}  // namespace keras_prune
