// Compute layouts of packed tensors: made once for each distinct content and shared by all kernels of the process.
//
// An entry holds a reference on the packed tensor's buffer. While it does, TensorFlow can neither free that memory nor
// write to it in place (in-place updates need the only reference), so an equal address and size mean equal bytes: a
// hit compares no bytes. A new address is compared byte by byte with what is known; equal bytes share a layout, so
// copies and many functions over one variable cost one layout. Entries whose buffer nobody else holds any more can
// never be hit by address again: they are dropped at the next miss, every kReleaseInterval calls, and whenever a
// kernel is deleted.
#ifndef KERAS_PRUNE_TF_LAYOUT_CACHE_H_
#define KERAS_PRUNE_TF_LAYOUT_CACHE_H_

#include "../kernels/fully_connected.h"
#include "tf_c_api.h"

namespace keras_prune {

// A layout with a count of its users; opaque outside of layout_cache.cc but for the pointer.
struct SharedLayout {
  FcLayout* layout;
  int references;  // atomic
};

// What the cache found or made. `error` is null or says what is wrong and what to do.
struct LayoutLookup {
  SharedLayout* shared;
  const char* error;
  bool out_of_memory;
};

// The layout of `packed` (uint8); give it back with ReleaseLayout. Takes the ownership of `packed`. Thread-safe.
LayoutLookup AcquireLayout(TF_Tensor* packed);
void ReleaseLayout(SharedLayout* shared);

// Drops what only the cache still holds.
void ReleaseUnused();

// Layouts made since the library was loaded, and entries held now: for tests.
void CacheCounts(int64_t* layouts_made, int64_t* entries);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_LAYOUT_CACHE_H_
