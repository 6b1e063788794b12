// The storage format of pruned, quantized weights, version 1: the C++ mirror of keras_prune/sparse_format.py.
// docs/format.md describes every byte. Freestanding C++17: no heap, no exceptions, no RTTI.
#ifndef KERAS_PRUNE_SPARSE_FORMAT_H_
#define KERAS_PRUNE_SPARSE_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "bytes.h"

namespace keras_prune {

enum class Status {
  kOk = 0,
  kTruncated,
  kBadMagic,
  kBadVersion,
  kBadSizes,
  kBadChecksum,
  kBadCodebook,
  kBadEntries,
  kBadStream,
  kOutOfMemory,
};

// What is wrong and what to do about it; never null.
const char* StatusMessage(Status status);

// A checked packed buffer; points into the caller's bytes, which may be unaligned.
struct PackedView {
  uint32_t rows = 0;  // outputs, at most 2^31 - 1
  uint32_t cols = 0;  // inputs, likewise
  uint32_t num_entries = 0;
  uint32_t num_kept = 0;
  uint32_t codebook_size = 0;  // with the zero of code 0
  uint8_t gap_bits = 0;
  uint8_t code_bits = 0;
  const uint8_t* codebook = nullptr;  // codebook_size - 1 little-endian float32, from code 1 on
  const uint8_t* gaps = nullptr;
  const uint8_t* codes = nullptr;
};

// Checks every rule of the format (header, sizes, checksum, every entry) in one pass; on kOk fills `view`.
Status ParsePacked(const uint8_t* data, size_t num_bytes, PackedView* view);

// CRC-32 (IEEE 802.3, as in zlib) of `size` bytes, continuing from `crc` (0 to begin).
uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t size);

// The head of both versions ends with the checksum of the whole buffer, its own four bytes taken as zero.
constexpr size_t kCrcOffset = 32;
constexpr size_t kHeaderBytes = 36;
bool ChecksumIsRight(const uint8_t* data, size_t num_bytes);  // of at least kHeaderBytes

// The value of a code; code 0 is 0.0f.
float CodebookValue(const PackedView& view, uint32_t code);

// What follows is in an unnamed namespace on purpose: each translation unit is compiled for its own instruction set,
// and the linker must not replace one's copy by another's.
namespace {  // NOLINT(google-build-namespaces)

// Value i of a bit stream; reads no byte that the value does not occupy.
inline uint32_t BitsAt(const uint8_t* stream, uint32_t i, uint32_t bits) {
  const uint64_t bit = uint64_t{i} * bits;
  const uint8_t* p = stream + (bit >> 3);
  const uint32_t shift = bit & 7;
  uint32_t word = p[0];
  if (shift + bits > 8) word |= uint32_t{p[1]} << 8;
  return (word >> shift) & ((1u << bits) - 1);
}

// Calls visit(gap, code) for every entry, fillers included, in order.
template <typename Visit>
inline void VisitEntries(const PackedView& view, Visit&& visit) {
  const uint32_t gap_mask = (1u << view.gap_bits) - 1, code_mask = (1u << view.code_bits) - 1;
  const uint8_t* gaps = view.gaps;
  const uint8_t* codes = view.codes;
  for (uint64_t left = view.num_entries; left != 0;) {
    uint64_t gap_word = EightValues(gaps, left, view.gap_bits);
    uint64_t code_word = EightValues(codes, left, view.code_bits);
    const int count = left < 8 ? static_cast<int>(left) : 8;
    for (int k = 0; k < count; ++k) {
      visit(static_cast<uint32_t>(gap_word) & gap_mask, static_cast<uint32_t>(code_word) & code_mask);
      gap_word >>= view.gap_bits;
      code_word >>= view.code_bits;
    }
    gaps += view.gap_bits;  // 8 values of b bits are b bytes
    codes += view.code_bits;
    left -= count;
  }
}

// Calls visit(row, col, code, entry) for every kept weight, in row-major order; fillers are passed over, but count in
// `entry`, the index in the streams. No division.
template <typename Visit>
inline void VisitKept(const PackedView& view, Visit&& visit) {
  uint32_t row = 0, entry = 0;
  uint64_t next_col = 0;  // the column after the entry before, in `row`; it may be past the row's end
  VisitEntries(view, [&](uint32_t gap, uint32_t code) {
    next_col += gap;
    while (next_col >= view.cols) {
      next_col -= view.cols;
      ++row;
    }
    if (code != 0) visit(row, static_cast<uint32_t>(next_col), code, entry);
    ++entry;
    ++next_col;
  });
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_SPARSE_FORMAT_H_
