// The int8 reference as a kernel: every call decodes the packed bytes.
#include "int8.h"
#include "reference.h"

namespace keras_prune {
namespace {

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return kFcReference.make(packed, kernel, out);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t, uint32_t) {
  const PackedView& packed = static_cast<const PackedLayout*>(layout)->packed;
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  const auto* x = static_cast<const int8_t*>(rows.x);
  for (size_t b = 0; b < rows.count; ++b) {
    uint32_t row = 0;
    int64_t sum = 0;
    const auto finish_row = [&] {
      const float scale = rows.scales[b] * codebook.scale;
      rows.y[row + b * rows.y_stride] = Int8Result(static_cast<float>(sum), scale, rows, row);
      ++row;
      sum = 0;
    };
    VisitKept(packed, [&](uint32_t r, uint32_t c, uint32_t code, uint32_t) {
      while (row < r) finish_row();
      sum += codebook.values[code] * x[c + b * rows.stride];
    });
    while (row < packed.rows) finish_row();
  }
}

// Of what is computed: the quantized weights, the rounding of x taken for the identity.
void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const PackedView& packed = static_cast<const PackedLayout*>(layout)->packed;
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  for (size_t b = 0; b < batch; ++b, dy += packed.rows, dx += packed.cols) {
    for (uint32_t c = 0; c < packed.cols; ++c) dx[c] = 0.0f;
    VisitKept(packed, [&](uint32_t r, uint32_t c, uint32_t code, uint32_t) {
      dx[c] += static_cast<float>(codebook.values[code]) * codebook.scale * dy[r];
    });
  }
}

}  // namespace

const FcKernel kFcS8Reference = {"s8_fc_packed__reference", Isa::kReference, Input::kInt8Rows, 0, Make, Forward,
                                  nullptr, Backward};

}  // namespace keras_prune
