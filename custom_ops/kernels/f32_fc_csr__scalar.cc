// Portable kernel, float32.
#include <string.h>

#include "csr.h"

namespace keras_prune {
namespace {

struct Range {
  uint32_t first, end;
};

// kBatch batch rows at a time, so that an entry is read once for all of them.
template <CsrCodes kForm, int kBatch>
void ForwardTile(const CsrLayout& w, const float* x, float* y, const RowBlock& rows, Range range) {
  const size_t stride = rows.stride;
  for (uint32_t at = range.first; at < range.end; ++at) {
    float sums[kBatch] = {}, odd[kBatch] = {};  // two chains of additions: half the wait
    const auto add_to = [&w, x, stride](float* to) {
      return [&w, x, stride, to](size_t col, uint32_t code) {
        for (int k = 0; k < kBatch; ++k) to[k] += w.codebook[code] * x[col + stride * k];
      };
    };
    VisitRow<kForm>(w, at, add_to(sums), add_to(odd));
    const uint32_t row = w.row_of[at] & ~kBridged;
    for (int k = 0; k < kBatch; ++k) {
      float v = sums[k] + odd[k] + (rows.bias != nullptr ? rows.bias[row] : 0.0f);
      v = v < rows.low ? rows.low : v;
      y[row + rows.y_stride * k] = v > rows.high ? rows.high : v;
    }
  }
}

template <CsrCodes kForm>
void ForwardBatch(const CsrLayout& w, const RowBlock& rows, Range range) {
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  size_t batch = rows.count;
  for (; batch >= 4; batch -= 4, x += rows.stride * 4, y += rows.y_stride * 4) {
    ForwardTile<kForm, 4>(w, x, y, rows, range);
  }
  for (; batch != 0; --batch, x += rows.stride, y += rows.y_stride) ForwardTile<kForm, 1>(w, x, y, rows, range);
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
    const float factor = dy[w.row_of[at] & ~kBridged];
    const auto add = [&w, dx, factor](size_t col, uint32_t code) { dx[col] += w.codebook[code] * factor; };
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

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeCsr(packed, packed.codebook_size <= 16 ? CsrCodes::kNibbles : CsrCodes::kBytes, kernel, out);
}

}  // namespace

const FcKernel kFcScalar = {"f32_fc_csr__scalar", Isa::kScalar, Input::kRows, 0, Make, Forward, CsrSplit, Backward};

}  // namespace keras_prune
