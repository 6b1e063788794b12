// The compute layout of the scalar kernels: kept weights row by row (CSR), a gap of 8 bits and a code each; internal to
// custom_ops/kernels. Rows without weights are not listed.
//
// Codes have 8 bits, or int8 kernels their weights; 4 bits of a codebook of up to 16 values where a layout would not be
// lean otherwise (lean.h), always for float32. Of 17 to 64 values the bits above 4 stand above the gap then, which has
// 7 or 6.
#ifndef KERAS_PRUNE_KERNELS_CSR_H_
#define KERAS_PRUNE_KERNELS_CSR_H_

#include "kernel.h"

namespace keras_prune {

constexpr uint32_t kBridged = uint32_t{1} << 31;  // in row_of, whose rows are not that large

enum class CsrCodes { kBytes, kNibbles, kFiveBits, kSixBits };

// Rows begin at even entries. Entries of code 0 are no weights: one may fill a row up, and in rows with the mark
// kBridged they bridge gaps that are larger.
struct CsrLayout : FcLayout {
  CsrCodes form;
  int8_t table[64];     // of int8: weights by code, but for kBytes
  uint32_t* row_start;  // kept_rows + 1
  uint32_t* row_of;     // kept_rows
  uint8_t* gaps;        // columns from the entry before, or the row's beginning; above them HighBits of the code
  uint8_t* codes;       // two a byte, the first in the low half, but for kBytes
};

// The layout with codes of this form, or of the one that takes the fewest bytes where it would not be lean. Making it
// allocates; computing allocates nothing.
Status MakeCsr(const PackedView& packed, CsrCodes form, const FcKernel* kernel, FcLayout** out);

// A row is a part; its work is its entries.
uint32_t CsrSplit(const FcLayout* layout, uint32_t share, uint32_t shares);

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// Bits of a code in its gap's byte.
constexpr uint32_t HighBits(CsrCodes form) {
  return form == CsrCodes::kFiveBits ? 1 : form == CsrCodes::kSixBits ? 2 : 0;
}

template <CsrCodes kForm>
constexpr uint32_t GapIn(uint8_t byte) {
  return byte & 255u >> HighBits(kForm);
}

// The code of which `low` are the low 4 bits, or all; `byte` is its gap's.
template <CsrCodes kForm>
constexpr uint32_t CodeIn(uint8_t byte, uint32_t low) {
  return HighBits(kForm) == 0 ? low : low | uint32_t{byte} >> (8 - HighBits(kForm)) << 4;
}

template <CsrCodes kForm>
inline uint32_t CodeAt(const CsrLayout& w, size_t i) {
  return CodeIn<kForm>(w.gaps[i], kForm == CsrCodes::kBytes ? w.codes[i] : w.codes[i / 2] >> (i % 2 * 4) & 15u);
}

// Calls take(col, code) and take_odd(col, code) by turns for the weights of a row, or nearly so.
template <CsrCodes kForm, typename Take, typename TakeOdd>
inline void VisitRow(const CsrLayout& w, uint32_t at, Take&& take, TakeOdd&& take_odd) {
  constexpr bool kHalves = kForm != CsrCodes::kBytes;
  size_t i = w.row_start[at], col = 0;
  const size_t end = w.row_start[at + 1] - (CodeAt<kForm>(w, w.row_start[at + 1] - 1) == 0);
  if ((w.row_of[at] & kBridged) != 0) {
    for (; i < end; ++i, ++col) {
      col += GapIn<kForm>(w.gaps[i]);
      if (CodeAt<kForm>(w, i) != 0) take(col, CodeAt<kForm>(w, i));
    }
    return;
  }
  const uint8_t *gaps = w.gaps + i, *codes = w.codes + (kHalves ? i / 2 : i);
  for (; i + 1 < end; i += 2, gaps += 2, codes += kHalves ? 1 : 2) {
    const uint32_t low = kHalves ? codes[0] & 15u : codes[0], low_odd = kHalves ? codes[0] >> 4 : codes[1];
    const size_t first = col + GapIn<kForm>(gaps[0]), second = first + GapIn<kForm>(gaps[1]) + 1;
    take(first, CodeIn<kForm>(gaps[0], low));
    take_odd(second, CodeIn<kForm>(gaps[1], low_odd));
    col = second + 1;
  }
  if (i < end) take(col + GapIn<kForm>(w.gaps[i]), CodeAt<kForm>(w, i));
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_CSR_H_
