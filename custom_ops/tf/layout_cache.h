// Compute layouts of packed tensors: made once for each distinct content and shared by all kernels of the process.
//
// Batches of a few rows, large ones and int8 activations want different layouts. Each is made when a call first wants
// it, and is kept beside the others: a server sees small batches and large ones. docs/performance.md says how large they
// are.
//
// An entry holds a reference on the packed tensor's buffer. While it does, TensorFlow can neither free that memory nor
// write to it in place (in-place updates need the only reference), so for memory that only TensorFlow writes to an
// equal address and size mean equal bytes: a hit compares no more than the checksum in the header. Memory that others
// can write to (a tensor that shares a NumPy array's memory, as DLPack and tf.raw_ops make them) is covered by that
// checksum alone: other packed bytes in the same place are noticed, damage that leaves those four bytes as they were is
// not, and the layout of the bytes before goes on being used. Python's relative_index_matmul copies what is not a
// tensor yet. A layout never points into the packed bytes, so nothing worse follows. A new address is compared byte by
// byte with what is known; equal bytes share a layout, so copies and many functions over one variable cost one layout.
// Entries whose buffer nobody else holds any more can never be hit by address again: they are dropped at the next miss,
// every kReleaseInterval calls, and whenever a kernel is deleted.
#ifndef KERAS_PRUNE_TF_LAYOUT_CACHE_H_
#define KERAS_PRUNE_TF_LAYOUT_CACHE_H_

#include "../kernels/fully_connected.h"
#include "tf_c_api.h"

namespace keras_prune {

struct SharedLayout;  // a packed tensor's layouts, with a count of their users; opaque

// What the cache found or made. `error` is null or says what is wrong and what to do.
struct LayoutLookup {
  SharedLayout* shared;
  const FcLayout* layout;  // one of its layouts: the one for the use
  const char* error;  // also null when `accept` refused
  bool out_of_memory;
};

// Says whether bytes of a matrix of this size are what the caller expects; asked before a layout is made of them. Where
// they are coded, few bytes may stand for many weights: the caller must know both sizes.
struct SizeCheck {
  bool (*accept)(void* caller, uint32_t rows, uint32_t cols, bool is_coded);
  void* caller;
};

constexpr size_t kAnyBatch = 0;  // whatever layout there is for these activations will do

// What a call wants a layout for.
struct LayoutUse {
  Activations activations;
  size_t batch;
};

// The layout of `packed` (uint8) for `use`; give it back with ReleaseLayout. Takes the ownership of `packed`.
// Thread-safe. A layout that is there already is found without asking `check`.
LayoutLookup AcquireLayout(TF_Tensor* packed, const LayoutUse& use, const SizeCheck& check);
void ReleaseLayout(SharedLayout* shared);

// Drops what only the cache still holds.
void ReleaseUnused();

// For how many contents layouts were made since the library was loaded, and entries held now: for tests.
void CacheCounts(int64_t* layouts_made, int64_t* entries);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_LAYOUT_CACHE_H_
