// Reading one row of the packed streams while others are read too; internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_ROW_CURSOR_H_
#define KERAS_PRUNE_KERNELS_ROW_CURSOR_H_

#include "../sparse_format.h"

namespace keras_prune {

constexpr uint32_t kNoColumn = UINT32_MAX;  // no column is that large, nor within a window of the last base

// A row's next kept weight and how many are left with it.
struct RowCursor {
  uint32_t row, entry, col, left;
};

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// To the row's next kept weight, over fillers; a filler has the largest gap, so most codes need not be read.
inline void Advance(const PackedView& packed, RowCursor* at) {
  if (--at->left == 0) {
    at->col = kNoColumn;
    return;
  }
  const uint32_t largest_gap = (1u << packed.gap_bits) - 1;
  uint32_t gap;
  do {
    gap = BitsAt(packed.gaps, ++at->entry, packed.gap_bits);
    at->col += gap + 1;
  } while (gap == largest_gap && BitsAt(packed.codes, at->entry, packed.code_bits) == 0);
}

// The rows with kept weights, at most min(rows, num_kept), in their order; returns how many.
inline uint32_t FindRows(const PackedView& packed, RowCursor* rows) {
  uint32_t count = 0;
  VisitKept(packed, [&](uint32_t row, uint32_t col, uint32_t, uint32_t entry) {
    if (count == 0 || rows[count - 1].row != row) rows[count++] = {row, entry, col, 0};
    ++rows[count - 1].left;
  });
  return count;
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_ROW_CURSOR_H_
