// The reference as a kernel: its layout is a copy of the packed bytes, and every call decodes them.
#include <string.h>

#include "kernel.h"
#include "reference.h"

namespace keras_prune {
namespace {

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  const size_t codebook_bytes = 4 * size_t{packed.codebook_size - 1};
  const size_t gap_bytes = (uint64_t{packed.num_entries} * packed.gap_bits + 7) / 8;
  const size_t code_bytes = (uint64_t{packed.num_entries} * packed.code_bits + 7) / 8;
  const uint64_t num_bytes = sizeof(PackedLayout) + codebook_bytes + gap_bytes + code_bytes;
  auto* layout = static_cast<PackedLayout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed, kernel, num_bytes, layout);
  auto* bytes = reinterpret_cast<uint8_t*>(layout + 1);
  if (codebook_bytes != 0) memcpy(bytes, packed.codebook, codebook_bytes);
  if (gap_bytes != 0) memcpy(bytes + codebook_bytes, packed.gaps, gap_bytes);
  if (code_bytes != 0) memcpy(bytes + codebook_bytes + gap_bytes, packed.codes, code_bytes);
  layout->num_parts = 1;
  layout->packed = packed;
  layout->packed.codebook = bytes;
  layout->packed.gaps = bytes + codebook_bytes;
  layout->packed.codes = bytes + codebook_bytes + gap_bytes;
  *out = layout;
  return Status::kOk;
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t, uint32_t) {
  const PackedView& packed = static_cast<const PackedLayout*>(layout)->packed;
  const auto* x = static_cast<const float*>(rows.x);
  for (size_t b = 0; b < rows.count; ++b) {
    ReferenceForward(packed, x + b * rows.stride, 1, rows.bias, rows.low, rows.high, rows.y + b * rows.y_stride);
  }
}

void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  ReferenceBackward(static_cast<const PackedLayout*>(layout)->packed, dy, batch, dx);
}

}  // namespace

const FcKernel kFcReference = {"f32_fc_packed__reference", Isa::kReference, Input::kRows, 0, Make, Forward, nullptr, Backward};

}  // namespace keras_prune
