#include "csr.h"

#include <algorithm>

#include "lean.h"

namespace keras_prune {
namespace {

struct Sizes {
  uint64_t entries;
  uint32_t rows;
};

// Calls begin(at, row, entry) for each row with weights and emit(entry, gap, code) for each entry, code 0 for a bridge.
template <typename Begin, typename Emit>
Sizes WalkEntries(const PackedView& packed, CsrCodes form, Begin&& begin, Emit&& emit) {
  const uint32_t largest_gap = UINT8_MAX >> HighBits(form);
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
    for (; gap > largest_gap; gap -= largest_gap + 1) emit(sizes.entries++, largest_gap, 0u);
    emit(sizes.entries++, gap, code);
    next_col = col + 1;
  });
  sizes.entries += sizes.entries % 2;
  return sizes;
}

Sizes Count(const PackedView& packed, CsrCodes form) {
  return WalkEntries(packed, form, [](uint32_t, uint32_t, uint64_t) {}, [](uint64_t, uint32_t, uint32_t) {});
}

uint64_t PlaceArrays(CsrCodes form, const Sizes& sizes, void* base, CsrLayout* arrays) {
  Arena arena(base);
  arena.Take<CsrLayout>(1);
  arrays->form = form;
  arrays->row_start = arena.Take<uint32_t>(uint64_t{sizes.rows} + 1);
  arrays->row_of = arena.Take<uint32_t>(sizes.rows);
  arrays->gaps = arena.Take<uint8_t>(sizes.entries);
  arrays->codes = arena.Take<uint8_t>(form == CsrCodes::kBytes ? sizes.entries : sizes.entries / 2);
  return arena.used();
}

CsrCodes SmallestForm(uint32_t codebook_size) {
  return codebook_size <= 16   ? CsrCodes::kNibbles
         : codebook_size <= 32 ? CsrCodes::kFiveBits
         : codebook_size <= 64 ? CsrCodes::kSixBits
                               : CsrCodes::kBytes;
}

// All bits are zero at first.
void FillArrays(const PackedView& packed, CsrLayout* layout) {
  const bool halves = layout->form != CsrCodes::kBytes;
  const uint32_t gap_bits = 8 - HighBits(layout->form);
  uint32_t current = 0;
  const auto begin = [layout, &current](uint32_t at, uint32_t row, uint64_t entry) {
    current = at;
    layout->row_of[at] = row;
    layout->row_start[at] = static_cast<uint32_t>(entry);
  };
  const auto emit = [=, &current](uint64_t entry, uint32_t gap, uint32_t code) {
    layout->gaps[entry] = static_cast<uint8_t>(halves ? gap | code >> 4 << gap_bits : gap);
    uint8_t& at = layout->codes[halves ? entry / 2 : entry];
    at = static_cast<uint8_t>(at | (halves ? (code & 15) << entry % 2 * 4 : code));
    if (code == 0) layout->row_of[current] |= kBridged;
  };
  const Sizes sizes = WalkEntries(packed, layout->form, begin, emit);
  layout->row_start[sizes.rows] = static_cast<uint32_t>(sizes.entries);
  layout->kept_rows = layout->num_parts = sizes.rows;
}

}  // namespace

Status MakeCsr(const PackedView& packed, CsrCodes form, const FcKernel* kernel, FcLayout** out) {
  CsrLayout arrays;
  Sizes sizes = Count(packed, form);
  const CsrCodes smallest = SmallestForm(packed.codebook_size);
  if (form != smallest && !IsLean(packed, PlaceArrays(form, sizes, nullptr, &arrays))) {
    form = smallest;
    sizes = Count(packed, form);
  }
  if (sizes.entries > UINT32_MAX) return Status::kOutOfMemory;
  const uint64_t num_bytes = PlaceArrays(form, sizes, nullptr, &arrays);
  auto* layout = static_cast<CsrLayout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed, kernel, num_bytes, layout);
  PlaceArrays(form, sizes, layout, layout);
  FillArrays(packed, layout);
  *out = layout;
  return Status::kOk;
}

uint32_t CsrSplit(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const CsrLayout*>(layout);
  const auto until = static_cast<uint32_t>(uint64_t{w.row_start[w.kept_rows]} * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.row_start, w.row_start + w.kept_rows, until) - w.row_start);
}

}  // namespace keras_prune
