// Portable kernel: kept weights row by row (CSR), a gap of 8 bits and a code each; 4 bits of a codebook of up to 16
// values. Rows without weights are not listed. Making the layout allocates it; computing allocates nothing.
#include <string.h>

#include "csr.h"

namespace keras_prune {
namespace {

constexpr uint32_t kBridged = uint32_t{1} << 31;  // in row_of, whose rows are not that large

// Rows begin at even entries. Entries of code 0 are no weights: one may fill a row up, and in rows with the mark
// kBridged they bridge gaps that are larger.
struct CsrLayout : CsrRows {
  bool nibbles;   // two codes a byte, the first in the low half
  uint8_t* gaps;  // columns between an entry and the one before, or the row's beginning
  uint8_t* codes;
};

struct Sizes {
  uint64_t entries;
  uint32_t rows;
};

// Calls begin(at, row, entry) for each row with weights and emit(entry, gap, code) for each entry, code 0 for a bridge.
template <typename Begin, typename Emit>
Sizes WalkEntries(const PackedView& packed, Begin&& begin, Emit&& emit) {
  Sizes sizes = {};
  uint32_t current = UINT32_MAX, next_col = 0;
  VisitKept(packed, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    if (row != current) {
      sizes.entries += sizes.entries % 2;
      begin(sizes.rows++, row, sizes.entries);
      current = row;
      next_col = 0;
    }
    uint32_t gap = col - next_col;
    for (; gap > UINT8_MAX; gap -= UINT8_MAX + 1) emit(sizes.entries++, UINT8_MAX, 0u);
    emit(sizes.entries++, gap, code);
    next_col = col + 1;
  });
  sizes.entries += sizes.entries % 2;
  return sizes;
}

uint64_t PlaceArrays(const PackedView& packed, const Sizes& sizes, void* base, CsrLayout* arrays) {
  Arena arena(base);
  arena.Take<CsrLayout>(1);
  arrays->nibbles = packed.codebook_size <= 16;
  arrays->row_start = arena.Take<uint32_t>(uint64_t{sizes.rows} + 1);
  arrays->row_of = arena.Take<uint32_t>(sizes.rows);
  arrays->gaps = arena.Take<uint8_t>(sizes.entries);
  arrays->codes = arena.Take<uint8_t>(arrays->nibbles ? sizes.entries / 2 : sizes.entries);
  return arena.used();
}

void FillArrays(const PackedView& packed, CsrLayout* layout) {
  uint32_t current = 0;
  const auto begin = [layout, &current](uint32_t at, uint32_t row, uint64_t entry) {
    current = at;
    layout->row_of[at] = row;
    layout->row_start[at] = static_cast<uint32_t>(entry);
  };
  const auto emit = [layout, &current](uint64_t entry, uint32_t gap, uint32_t code) {
    layout->gaps[entry] = static_cast<uint8_t>(gap);
    uint8_t& at = layout->codes[layout->nibbles ? entry / 2 : entry];
    at = static_cast<uint8_t>(at | code << (layout->nibbles ? entry % 2 * 4 : 0));
    if (code == 0) layout->row_of[current] |= kBridged;
  };
  const Sizes sizes = WalkEntries(packed, begin, emit);
  layout->row_start[sizes.rows] = static_cast<uint32_t>(sizes.entries);
  layout->kept_rows = layout->num_parts = sizes.rows;
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  const Sizes sizes = WalkEntries(packed, [](uint32_t, uint32_t, uint64_t) {}, [](uint64_t, uint32_t, uint32_t) {});
  if (sizes.entries > UINT32_MAX) return Status::kOutOfMemory;
  CsrLayout arrays;
  const uint64_t num_bytes = PlaceArrays(packed, sizes, nullptr, &arrays);
  auto* layout = static_cast<CsrLayout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed, kernel, num_bytes, layout);
  PlaceArrays(packed, sizes, layout, layout);
  FillArrays(packed, layout);
  *out = layout;
  return Status::kOk;
}

template <bool kNibbles>
inline uint32_t CodeAt(const CsrLayout& w, size_t i) {
  return kNibbles ? w.codes[i / 2] >> (i % 2 * 4) & 15u : w.codes[i];
}

// Calls take(col, code) and take_odd(col, code) by turns for the weights of a row, or nearly so.
template <bool kNibbles, typename Take, typename TakeOdd>
inline void VisitRow(const CsrLayout& w, uint32_t at, Take&& take, TakeOdd&& take_odd) {
  size_t i = w.row_start[at], col = 0;
  const size_t end = w.row_start[at + 1] - (CodeAt<kNibbles>(w, w.row_start[at + 1] - 1) == 0);
  if ((w.row_of[at] & kBridged) != 0) {
    for (; i < end; ++i, ++col) {
      col += w.gaps[i];
      if (CodeAt<kNibbles>(w, i) != 0) take(col, CodeAt<kNibbles>(w, i));
    }
    return;
  }
  for (; i + 1 < end; i += 2) {
    const uint32_t codes = kNibbles ? w.codes[i / 2] : w.codes[i];
    const size_t first = col + w.gaps[i], second = first + w.gaps[i + 1] + 1;
    take(first, kNibbles ? codes & 15 : codes);
    take_odd(second, kNibbles ? codes >> 4 : w.codes[i + 1]);
    col = second + 1;
  }
  if (i < end) take(col + w.gaps[i], CodeAt<kNibbles>(w, i));
}

// kBatch batch rows at a time, so that an entry is read once for all of them.
template <bool kNibbles, int kBatch>
void ForwardTile(const CsrLayout& w, const float* x, float* y, const RowBlock& rows, Range range) {
  const size_t stride = rows.stride;
  for (uint32_t at = range.first; at < range.end; ++at) {
    float sums[kBatch] = {}, odd[kBatch] = {};  // two chains of additions: half the wait
    const auto add_to = [&w, x, stride](float* to) {
      return [&w, x, stride, to](size_t col, uint32_t code) {
        for (int k = 0; k < kBatch; ++k) to[k] += w.codebook[code] * x[col + stride * k];
      };
    };
    VisitRow<kNibbles>(w, at, add_to(sums), add_to(odd));
    const uint32_t row = w.row_of[at] & ~kBridged;
    for (int k = 0; k < kBatch; ++k) {
      float v = sums[k] + odd[k] + (rows.bias != nullptr ? rows.bias[row] : 0.0f);
      v = v < rows.low ? rows.low : v;
      y[row + rows.y_stride * k] = v > rows.high ? rows.high : v;
    }
  }
}

template <bool kNibbles>
void ForwardBatch(const CsrLayout& w, const RowBlock& rows, Range range) {
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  size_t batch = rows.count;
  for (; batch >= 4; batch -= 4, x += rows.stride * 4, y += rows.y_stride * 4) {
    ForwardTile<kNibbles, 4>(w, x, y, rows, range);
  }
  for (; batch != 0; --batch, x += rows.stride, y += rows.y_stride) ForwardTile<kNibbles, 1>(w, x, y, rows, range);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  w.nibbles ? ForwardBatch<true>(w, rows, {first, end}) : ForwardBatch<false>(w, rows, {first, end});
}

template <bool kNibbles>
void BackwardRow(const CsrLayout& w, const float* dy, float* dx) {
  for (uint32_t at = 0; at < w.kept_rows; ++at) {
    const float factor = dy[w.row_of[at] & ~kBridged];
    const auto add = [&w, dx, factor](size_t col, uint32_t code) { dx[col] += w.codebook[code] * factor; };
    VisitRow<kNibbles>(w, at, add, add);
  }
}

void Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) {
    w.nibbles ? BackwardRow<true>(w, dy, dx) : BackwardRow<false>(w, dy, dx);
  }
}

}  // namespace

const FcKernel kFcScalar = {"f32_fc_csr__scalar", Isa::kScalar, Input::kRows, 0, Make, Forward, CsrSplit, Backward};

}  // namespace keras_prune
