// What compute layouts are measured by: the bytes of the packed entries that they are made from.
#ifndef KERAS_PRUNE_BENCH_ENTRIES_H_
#define KERAS_PRUNE_BENCH_ENTRIES_H_

#include <algorithm>
#include <cstdint>

#include "../sparse_format.h"

namespace keras_prune_bench {

// Bytes of the gaps and of the codes in version 1, with the width of gaps that needs the fewest: without header,
// codebook and checksum. One width for all buffers, because version 2 is decoded to entries of 8 and 8 bits.
inline uint64_t EntryBytes(const keras_prune::PackedView& packed) {
  constexpr uint32_t kFewestBits = 4, kMostBits = 8;
  uint64_t entries[kMostBits + 1] = {}, next = 0;
  keras_prune::VisitKept(packed, [&](uint32_t row, uint32_t col, uint32_t, uint32_t) {
    const uint64_t at = uint64_t{row} * packed.cols + col;
    for (uint32_t bits = kFewestBits; bits <= kMostBits; ++bits) entries[bits] += 1 + ((at - next) >> bits);
    next = at + 1;
  });
  uint32_t code_bits = 2;
  while ((1u << code_bits) < packed.codebook_size) ++code_bits;
  uint64_t fewest = UINT64_MAX;
  for (uint64_t bits = kFewestBits; bits <= kMostBits; ++bits) {
    fewest = std::min(fewest, (entries[bits] * bits + 7) / 8 + (entries[bits] * code_bits + 7) / 8);
  }
  return fewest;
}

}  // namespace keras_prune_bench

#endif  // KERAS_PRUNE_BENCH_ENTRIES_H_
