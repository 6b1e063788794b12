// The storage format of pruned, quantized weights: the C++ mirror of keras_prune/sparse_format.py.
// docs/format.md describes every byte. Freestanding C++17: no heap, no exceptions, no RTTI.
#ifndef KERAS_PRUNE_SPARSE_FORMAT_H_
#define KERAS_PRUNE_SPARSE_FORMAT_H_

#include <cstddef>
#include <cstdint>

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
  kOutOfMemory,
};

// What is wrong and what to do about it; never null.
const char* StatusMessage(Status status);

// A checked packed buffer; points into the caller's bytes, which may be unaligned.
struct PackedView {
  uint32_t rows = 0;  // outputs
  uint32_t cols = 0;  // inputs
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

}  // namespace keras_prune

#endif  // KERAS_PRUNE_SPARSE_FORMAT_H_
