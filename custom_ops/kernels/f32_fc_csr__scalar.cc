// Portable kernel: kept weights row by row (CSR), columns in 16 bits where they fit and else in 32, codes in 8. Rows
// without weights are not listed. Making the layout allocates it; computing allocates nothing.
#include <string.h>

#include <algorithm>

#include "kernel.h"

namespace keras_prune {
namespace {

struct CsrLayout : FcLayout {
  bool wide;            // 32-bit columns
  uint32_t* row_start;  // kept_rows + 1
  uint32_t* row_of;     // kept_rows
  void* columns;        // uint16_t or uint32_t
  uint8_t* codes;
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
  arrays->codes = arena.Take<uint8_t>(packed.num_kept);
  return arena.used();
}

template <typename Column>
void FillArrays(const PackedView& packed, CsrLayout* layout) {
  auto* columns = static_cast<Column*>(layout->columns);
  uint32_t kept = 0, rows = 0;
  VisitKept(packed, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    if (rows == 0 || layout->row_of[rows - 1] != row) {
      layout->row_of[rows] = row;
      layout->row_start[rows++] = kept;
    }
    columns[kept] = static_cast<Column>(col);
    layout->codes[kept++] = static_cast<uint8_t>(code);
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

struct Range {
  uint32_t first, end;
};

// kBatch batch rows at a time, so that an entry is read once for all of them.
template <typename Column, int kBatch>
void ForwardTile(const CsrLayout& w, const float* x, float* y, const RowBlock& rows, Range range) {
  const auto* columns = static_cast<const Column*>(w.columns);
  uint32_t i = w.row_start[range.first];
  for (uint32_t at = range.first; at < range.end; ++at) {
    float sums[kBatch] = {}, odd[kBatch] = {};  // two chains of additions: half the wait
    const uint32_t end = w.row_start[at + 1], row = w.row_of[at];
    for (; i + 1 < end; i += 2) {
      const float a = w.codebook[w.codes[i]], b = w.codebook[w.codes[i + 1]];
      const float *xa = x + columns[i], *xb = x + columns[i + 1];
      for (int k = 0; k < kBatch; ++k) {
        sums[k] += a * xa[rows.stride * k];
        odd[k] += b * xb[rows.stride * k];
      }
    }
    if (i < end) {
      for (int k = 0; k < kBatch; ++k) sums[k] += w.codebook[w.codes[i]] * x[columns[i] + rows.stride * k];
      ++i;
    }
    for (int k = 0; k < kBatch; ++k) {
      float v = sums[k] + odd[k] + (rows.bias != nullptr ? rows.bias[row] : 0.0f);
      v = v < rows.low ? rows.low : v;
      y[row + rows.y_stride * k] = v > rows.high ? rows.high : v;
    }
  }
}

template <typename Column>
void ForwardBatch(const CsrLayout& w, const RowBlock& rows, Range range) {
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  size_t batch = rows.count;
  for (; batch >= 4; batch -= 4, x += rows.stride * 4, y += rows.y_stride * 4) {
    ForwardTile<Column, 4>(w, x, y, rows, range);
  }
  for (; batch != 0; --batch, x += rows.stride, y += rows.y_stride) ForwardTile<Column, 1>(w, x, y, rows, range);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  w.wide ? ForwardBatch<uint32_t>(w, rows, {first, end}) : ForwardBatch<uint16_t>(w, rows, {first, end});
}

uint32_t Split(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  const auto until = static_cast<uint32_t>(uint64_t{w.row_start[w.kept_rows]} * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.row_start, w.row_start + w.kept_rows, until) - w.row_start);
}

template <typename Column>
void BackwardBatch(const CsrLayout& w, const float* dy, size_t batch, float* dx) {
  const auto* columns = static_cast<const Column*>(w.columns);
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) {
    for (uint32_t at = 0; at < w.kept_rows; ++at) {
      for (uint32_t i = w.row_start[at]; i < w.row_start[at + 1]; ++i) {
        dx[columns[i]] += w.codebook[w.codes[i]] * dy[w.row_of[at]];
      }
    }
  }
}

void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  w.wide ? BackwardBatch<uint32_t>(w, dy, batch, dx) : BackwardBatch<uint16_t>(w, dy, batch, dx);
}

}  // namespace

const FcKernel kFcScalar = {"f32_fc_csr__scalar", Isa::kScalar, Input::kRows, 0, Make, Forward, Split, Backward};

}  // namespace keras_prune
