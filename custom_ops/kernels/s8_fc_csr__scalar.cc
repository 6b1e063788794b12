// Portable int8 kernel: kept weights row by row (CSR), columns in 16 bits where they fit and else in 32, weights in 8.
// It stands in where a vector kernel's layout would be mostly fillers, and for rows whose
// sums may pass 32 bits.
#include <string.h>

#include <algorithm>

#include "csr.h"
#include "int8.h"

namespace keras_prune {
namespace {

struct CsrLayout : CsrRows {
  bool wide;      // 32-bit columns
  void* columns;  // uint16_t or uint32_t
  int8_t* weights;
};

uint64_t PlaceArrays(const PackedView& packed, CsrLayout* layout, CsrLayout* arrays) {
  Arena arena(layout);
  arena.Take<CsrLayout>(1);
  arrays->wide = packed.cols > 65536;
  const uint64_t most_rows = packed.rows < packed.num_kept ? packed.rows : packed.num_kept;
  arrays->row_start = arena.Take<uint32_t>(most_rows + 1);
  arrays->row_of = arena.Take<uint32_t>(most_rows);
  if (arrays->wide) {
    arrays->columns = arena.Take<uint32_t>(packed.num_kept);
  } else {
    arrays->columns = arena.Take<uint16_t>(packed.num_kept);
  }
  arrays->weights = arena.Take<int8_t>(packed.num_kept);
  return arena.used();
}

template <typename Column>
void FillArrays(const PackedView& packed, CsrLayout* layout) {
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  layout->w_scale = codebook.scale;
  auto* columns = static_cast<Column*>(layout->columns);
  uint32_t kept = 0, rows = 0;
  VisitKept(packed, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    if (rows == 0 || layout->row_of[rows - 1] != row) {
      layout->row_of[rows] = row;
      layout->row_start[rows++] = kept;
    }
    columns[kept] = static_cast<Column>(col);
    layout->weights[kept++] = codebook.values[code];
  });
  layout->row_start[rows] = kept;
  layout->kept_rows = layout->num_parts = rows;
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  CsrLayout arrays;
  const uint64_t num_bytes = PlaceArrays(packed, nullptr, &arrays);
  auto* layout = static_cast<CsrLayout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed, kernel, num_bytes, layout);
  PlaceArrays(packed, layout, layout);
  layout->wide ? FillArrays<uint32_t>(packed, layout) : FillArrays<uint16_t>(packed, layout);
  *out = layout;
  return Status::kOk;
}

// Adds weights [first, end) of a row, at most kMostInt8Weights, to the sums of kBatch batch rows.
template <typename Column, int kBatch>
inline void SumRow(const CsrLayout& w, const int8_t* x, size_t stride, Range range, int32_t* sums) {
  const auto* columns = static_cast<const Column*>(w.columns);
  uint32_t i = range.first;
  for (; i + 1 < range.end; i += 2) {  // by pairs: compilers make gathers of narrow loads out of the plain loop
    const int a = w.weights[i], b = w.weights[i + 1];
    const int8_t *xa = x + columns[i], *xb = x + columns[i + 1];
    for (int k = 0; k < kBatch; ++k) sums[k] += a * xa[stride * k] + b * xb[stride * k];
  }
  if (i == range.end) return;
  for (int k = 0; k < kBatch; ++k) sums[k] += w.weights[i] * x[columns[i] + stride * k];
}

// kBatch batch rows at a time, so that an entry is read once for all of them.
template <typename Column, int kBatch>
void ForwardTile(const CsrLayout& w, const RowBlock& rows, size_t batch_row, Range range) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  float* y = rows.y + batch_row * rows.y_stride;
  for (uint32_t at = range.first; at < range.end; ++at) {
    int64_t sums[kBatch] = {};
    for (Range some = {w.row_start[at], 0}; some.first < w.row_start[at + 1]; some.first = some.end) {
      some.end = std::min(w.row_start[at + 1], some.first + kMostInt8Weights);
      int32_t part[kBatch] = {};
      SumRow<Column, kBatch>(w, x, rows.stride, some, part);
      for (int k = 0; k < kBatch; ++k) sums[k] += part[k];
    }
    const uint32_t row = w.row_of[at];
    for (int k = 0; k < kBatch; ++k) {
      const float scale = rows.scales[batch_row + k] * w.w_scale;
      y[row + rows.y_stride * k] = Int8Result(static_cast<float>(sums[k]), scale, rows, row);
    }
  }
}

template <typename Column>
void ForwardBatch(const CsrLayout& w, const RowBlock& rows, Range range) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) ForwardTile<Column, 4>(w, rows, row, range);
  for (; row < rows.count; ++row) ForwardTile<Column, 1>(w, rows, row, range);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  w.wide ? ForwardBatch<uint32_t>(w, rows, {first, end}) : ForwardBatch<uint16_t>(w, rows, {first, end});
}

template <typename Column>
void BackwardBatch(const CsrLayout& w, const float* dy, size_t batch, float* dx) {
  const auto* columns = static_cast<const Column*>(w.columns);
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) {
    for (uint32_t at = 0; at < w.kept_rows; ++at) {
      for (uint32_t i = w.row_start[at]; i < w.row_start[at + 1]; ++i) {
        dx[columns[i]] += static_cast<float>(w.weights[i]) * w.w_scale * dy[w.row_of[at]];
      }
    }
  }
}

void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  w.wide ? BackwardBatch<uint32_t>(w, dy, batch, dx) : BackwardBatch<uint16_t>(w, dy, batch, dx);
}

}  // namespace

const FcKernel kFcS8Scalar = {"s8_fc_csr__scalar", Isa::kScalar, Input::kInt8Rows, 0, Make, Forward, CsrSplit,
                              Backward};

}  // namespace keras_prune
