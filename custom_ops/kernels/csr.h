// What the layouts of the scalar kernels share: rows with kept weights, the entries of one after those of another;
// internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_CSR_H_
#define KERAS_PRUNE_KERNELS_CSR_H_

#include <algorithm>

#include "kernel.h"

namespace keras_prune {

struct CsrRows : FcLayout {
  uint32_t* row_start;  // kept_rows + 1
  uint32_t* row_of;     // kept_rows
};

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

struct Range {
  uint32_t first, end;
};

// A row is a part; its work is its entries.
inline uint32_t CsrSplit(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const CsrRows*>(layout);
  const auto until = static_cast<uint32_t>(uint64_t{w.row_start[w.kept_rows]} * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.row_start, w.row_start + w.kept_rows, until) - w.row_start);
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_CSR_H_
