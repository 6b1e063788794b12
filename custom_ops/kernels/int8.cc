#include "int8.h"

namespace keras_prune {
namespace {

struct NoVectors {
  static size_t Largest(const float*, size_t, uint32_t*) { return 0; }
  static size_t Quantize(const float*, size_t, float, int8_t*) { return 0; }
};

}  // namespace

void QuantizeCodebook(const PackedView& packed, Int8Codebook* out) {
  float codebook[256] = {};
  for (uint32_t code = 0; code < packed.codebook_size; ++code) codebook[code] = CodebookValue(packed, code);
  out->scale = QuantizeRow(codebook, 256, 256, 0.0f, out->values);
}

float QuantizeRow(const float* x, size_t size, size_t stride, float scale, int8_t* values) {
  return QuantizeBy<NoVectors>(x, size, stride, scale, values);
}

}  // namespace keras_prune
