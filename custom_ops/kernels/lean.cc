#include "lean.h"

#include <algorithm>

namespace keras_prune {
namespace {

constexpr uint32_t kFewestGapBits = 4;  // of a packed buffer
constexpr double kMostOfEntries = 1.6;

// Of packed entries with the widths that need the fewest bytes, if weights are kept at random: a gap of g bits takes a
// filler for each 2^g columns without a weight.
double EntryBytes(const PackedView& packed) {
  const double dropped = 1.0 - packed.num_kept / (static_cast<double>(packed.rows) * packed.cols);
  uint32_t code_bits = 2;
  while ((1u << code_bits) < packed.codebook_size) ++code_bits;
  double beyond = dropped, fewest = 64.0;  // bits a weight; `beyond`: the chance of no weight in 2^gap_bits columns
  for (uint32_t gap_bits = 0; gap_bits <= 8; ++gap_bits, beyond *= beyond) {
    if (gap_bits >= kFewestGapBits) fewest = std::min(fewest, (gap_bits + code_bits) / (1.0 - beyond));
  }
  return packed.num_kept * fewest / 8.0;
}

}  // namespace

bool IsLean(const PackedView& packed, uint64_t num_bytes) {
  return num_bytes <= kSmallBytes || static_cast<double>(num_bytes) <= kMostOfEntries * EntryBytes(packed);
}

}  // namespace keras_prune
