// How large a compute layout may be: a small one as large as it is fastest, others at most 1.6 times the packed entries
// that they are made from; internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_LEAN_H_
#define KERAS_PRUNE_KERNELS_LEAN_H_

#include <cstdint>

#include "../sparse_format.h"

namespace keras_prune {

constexpr uint64_t kSmallBytes = uint64_t{256} << 10;  // a layout that leaves room in any second-level cache

// Whether a layout of so many bytes is small, or at most 1.6 times the entries, a gap and a code each.
bool IsLean(const PackedView& packed, uint64_t num_bytes);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_LEAN_H_
