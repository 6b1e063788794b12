#include "workspace.h"

#include <stdlib.h>

#include "../kernels/fully_connected.h"

namespace keras_prune {
namespace {

void* spares[kMostSpares];

// Before the aligned memory; as long as its alignment.
struct Head {
  size_t num_bytes;
};
static_assert(sizeof(Head) <= kWorkspaceAlignment, "it stands before aligned memory");

Head* HeadOf(void* data) { return reinterpret_cast<Head*>(static_cast<char*>(data) - kWorkspaceAlignment); }

void* Allocate(size_t num_bytes) {
  void* memory;
  if (num_bytes > PTRDIFF_MAX - kWorkspaceAlignment ||
      posix_memalign(&memory, kWorkspaceAlignment, num_bytes + kWorkspaceAlignment) != 0) {
    return nullptr;
  }
  void* data = static_cast<char*>(memory) + kWorkspaceAlignment;
  HeadOf(data)->num_bytes = num_bytes;
  return data;
}

void Free(void* data) {
  if (data != nullptr) free(HeadOf(data));
}

void* Take(void** spare) { return __atomic_exchange_n(spare, nullptr, __ATOMIC_ACQ_REL); }

}  // namespace

Workspace::Workspace(size_t num_bytes) : data_(nullptr) {
  if (num_bytes == 0) return;
  for (void*& spare : spares) {
    data_ = Take(&spare);
    if (data_ != nullptr) break;
  }
  if (data_ != nullptr && HeadOf(data_)->num_bytes >= num_bytes) return;
  Free(data_);  // a larger one takes its place
  data_ = Allocate(num_bytes);
}

Workspace::~Workspace() {
  for (void*& spare : spares) {
    if (data_ == nullptr) return;
    void* none = nullptr;
    if (__atomic_compare_exchange_n(&spare, &none, data_, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
  }
  Free(data_);
}

void ReleaseSpareWorkspaces() {
  for (void*& spare : spares) Free(Take(&spare));
}

}  // namespace keras_prune
