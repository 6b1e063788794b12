// Portable int8 kernel. It stands in where a vector kernel's layout would be mostly fillers, and for rows whose sums
// may pass 32 bits. Batch 1, nanoseconds a weight on a Zen 4: .6 with weights in bytes, 1.0 with codes of 4 bits.
#include <string.h>

#include "csr.h"
#include "int8.h"

namespace keras_prune {
namespace {

struct Range {
  uint32_t first, end;
};

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  const Status status = MakeCsr(packed, CsrCodes::kBytes, kernel, out);
  if (status != Status::kOk) return status;
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  auto* layout = static_cast<CsrLayout*>(*out);
  layout->w_scale = codebook.scale;
  memcpy(layout->table, codebook.values, sizeof layout->table);
  const uint32_t entries = layout->form == CsrCodes::kBytes ? layout->row_start[layout->kept_rows] : 0;
  for (uint32_t i = 0; i < entries; ++i) layout->codes[i] = static_cast<uint8_t>(codebook.values[layout->codes[i]]);
  return Status::kOk;
}

// Of kBytes codes are weights; those of 0 may be passed over as bridges are.
template <CsrCodes kForm>
inline int WeightOf(const CsrLayout& w, uint32_t code) {
  return kForm == CsrCodes::kBytes ? static_cast<int8_t>(code) : w.table[code];
}

// One row of kBatch batch rows, so that an entry is read once for all of them.
template <typename Sum, CsrCodes kForm, int kBatch>
inline void ForwardRow(const CsrLayout& w, const RowBlock& rows, size_t batch_row, uint32_t at) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  const size_t stride = rows.stride;
  Sum sums[kBatch] = {};
  const auto add = [&w, &sums, x, stride](size_t col, uint32_t code) {
    const int weight = WeightOf<kForm>(w, code);
    for (int k = 0; k < kBatch; ++k) sums[k] += weight * x[col + stride * k];
  };
  VisitRow<kForm>(w, at, add, add);
  const uint32_t row = w.row_of[at] & ~kBridged;
  for (int k = 0; k < kBatch; ++k) {
    const float scale = rows.scales[batch_row + k] * w.w_scale;
    rows.y[(batch_row + k) * rows.y_stride + row] = Int8Result(static_cast<float>(sums[k]), scale, rows, row);
  }
}

template <CsrCodes kForm, int kBatch>
void ForwardTile(const CsrLayout& w, const RowBlock& rows, size_t batch_row, Range range) {
  for (uint32_t at = range.first; at < range.end; ++at) {
    if (w.row_start[at + 1] - w.row_start[at] <= kMostInt8Weights) {
      ForwardRow<int32_t, kForm, kBatch>(w, rows, batch_row, at);
    } else {
      for (int k = 0; k < kBatch; ++k) ForwardRow<int64_t, kForm, 1>(w, rows, batch_row + k, at);
    }
  }
}

template <CsrCodes kForm>
void ForwardBatch(const CsrLayout& w, const RowBlock& rows, Range range) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) ForwardTile<kForm, 4>(w, rows, row, range);
  for (; row < rows.count; ++row) ForwardTile<kForm, 1>(w, rows, row, range);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  switch (w.form) {
    case CsrCodes::kBytes: return ForwardBatch<CsrCodes::kBytes>(w, rows, {first, end});
    case CsrCodes::kNibbles: return ForwardBatch<CsrCodes::kNibbles>(w, rows, {first, end});
    case CsrCodes::kFiveBits: return ForwardBatch<CsrCodes::kFiveBits>(w, rows, {first, end});
    case CsrCodes::kSixBits: return ForwardBatch<CsrCodes::kSixBits>(w, rows, {first, end});
  }
}

template <CsrCodes kForm>
void BackwardRow(const CsrLayout& w, const float* dy, float* dx) {
  for (uint32_t at = 0; at < w.kept_rows; ++at) {
    const float factor = w.w_scale * dy[w.row_of[at] & ~kBridged];
    const auto add = [&w, dx, factor](size_t col, uint32_t code) {
      dx[col] += static_cast<float>(WeightOf<kForm>(w, code)) * factor;
    };
    VisitRow<kForm>(w, at, add, add);
  }
}

void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  const auto row = w.form == CsrCodes::kBytes      ? BackwardRow<CsrCodes::kBytes>
                   : w.form == CsrCodes::kNibbles  ? BackwardRow<CsrCodes::kNibbles>
                   : w.form == CsrCodes::kFiveBits ? BackwardRow<CsrCodes::kFiveBits>
                                                   : BackwardRow<CsrCodes::kSixBits>;
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) row(w, dy, dx);
}

}  // namespace

const FcKernel kFcS8Scalar = {"s8_fc_csr__scalar", Isa::kScalar, Input::kInt8Rows, 0, Make, Forward, CsrSplit,
                              Backward};

}  // namespace keras_prune
