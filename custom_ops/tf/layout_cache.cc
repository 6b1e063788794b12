#include "layout_cache.h"

#include <pthread.h>

#include <cstdlib>
#include <cstring>

#include "../scratch.h"
#include "call.h"
#include "entries.h"
#include "old_glibc.h"

KP_OLD_GLIBC(pthread_mutex_trylock);

namespace keras_prune {

struct SharedLayout {
  int references;  // atomic
  Isa isa;
  int num_layouts;  // atomic; those that are there stay
  struct {
    FcLayout* layout;
    LayoutUse use;  // that it was made for
  } made[4];        // as many kernels as an instruction set has: for rows and for tiles, of float32 and of int8
};

namespace {

constexpr int kMostLayouts = sizeof SharedLayout::made / sizeof SharedLayout::made[0];
constexpr size_t kChecksumOffset = 32;  // docs/format.md
constexpr size_t kBuckets = 256;
constexpr int64_t kMaxEntries = 1024;           // layers of one process; the least recently used goes first
constexpr uint64_t kReleaseInterval = 1 << 10;  // calls between two looks for unused buffers

struct Entry {
  TF_Tensor* tensor;  // holds the buffer
  const uint8_t* data;
  size_t num_bytes;
  uint32_t checksum;  // as read from the header: tells when other packed bytes were written behind TensorFlow's back
  SharedLayout* shared;
  uint64_t last_use;
  Entry* next;
};

// Entries are added and removed under both mutexes (build first), found under either. Making a layout holds
// only the first, so that other layers' calls go on meanwhile. All of this is constant-initialized and never destroyed:
// kernels may run while the process ends.
pthread_mutex_t build_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
Entry* buckets[kBuckets];
int64_t num_entries;
uint64_t num_calls;
int64_t num_layouts_made;

class Lock {
 public:
  explicit Lock(pthread_mutex_t* mutex) : mutex_(mutex) { pthread_mutex_lock(mutex_); }
  ~Lock() { pthread_mutex_unlock(mutex_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  pthread_mutex_t* mutex_;
};

size_t BucketOf(const uint8_t* data) {
  // Buffers are 64-byte aligned and often spaced by powers of two: multiply, then take high bits.
  return static_cast<size_t>((reinterpret_cast<uintptr_t>(data) * UINT64_C(0x9E3779B97F4A7C15)) >> 56) % kBuckets;
}

uint32_t ChecksumOf(const uint8_t* data, size_t num_bytes) {
  uint32_t checksum = 0;
  if (num_bytes >= kChecksumOffset + sizeof checksum) memcpy(&checksum, data + kChecksumOffset, sizeof checksum);
  return checksum;
}

SharedLayout* Retain(SharedLayout* shared) {
  __atomic_add_fetch(&shared->references, 1, __ATOMIC_RELAXED);
  return shared;
}

// Frees a list of unlinked entries.
void FreeEntries(Entry* entry) {
  while (entry != nullptr) {
    Entry* next = entry->next;
    tf.TF_DeleteTensor(entry->tensor);
    ReleaseLayout(entry->shared);
    free(entry);
    entry = next;
  }
}

// The layout known for this address, with a reference for the caller, or null.
SharedLayout* FindByAddress(const uint8_t* data, size_t num_bytes, uint32_t checksum, bool* release_is_due) {
  Lock lock(&table_mutex);
  *release_is_due = ++num_calls % kReleaseInterval == 0;
  for (Entry* entry = buckets[BucketOf(data)]; entry != nullptr; entry = entry->next) {
    if (entry->data == data && entry->num_bytes == num_bytes && entry->checksum == checksum) {
      entry->last_use = num_calls;
      return Retain(entry->shared);
    }
  }
  return nullptr;
}

// The layout of equal bytes at another address, with a reference for the caller, or null. Needs build_mutex.
SharedLayout* FindByContent(const uint8_t* data, size_t num_bytes, uint32_t checksum) {
  for (Entry* head : buckets) {
    for (Entry* entry = head; entry != nullptr; entry = entry->next) {
      if (entry->num_bytes == num_bytes && entry->checksum == checksum && memcmp(entry->data, data, num_bytes) == 0) {
        return Retain(entry->shared);
      }
    }
  }
  return nullptr;
}

// Unlinks every entry for which `chosen` holds and returns them as a list. Needs build_mutex.
template <typename Predicate>
Entry* Unlink(Predicate chosen) {
  Lock lock(&table_mutex);
  Entry* unlinked = nullptr;
  for (Entry*& head : buckets) {
    for (Entry** link = &head; *link != nullptr;) {
      Entry* entry = *link;
      if (!chosen(entry)) {
        link = &entry->next;
        continue;
      }
      *link = entry->next;
      entry->next = unlinked;
      unlinked = entry;
      --num_entries;
    }
  }
  return unlinked;
}

// True when nobody outside of this cache holds the buffer.
bool IsUnused(Entry* entry) {
  TF_Tensor* moved = tf.TF_TensorMaybeMove(entry->tensor);
  if (moved == nullptr) return false;
  entry->tensor = moved;
  return true;
}

// Needs build_mutex.
void ReleaseUnusedLocked() { FreeEntries(Unlink(IsUnused)); }

// Needs build_mutex.
void ReleaseLeastRecentlyUsed() {
  uint64_t oldest = UINT64_MAX;
  {
    Lock lock(&table_mutex);
    for (Entry* head : buckets) {
      for (Entry* entry = head; entry != nullptr; entry = entry->next) {
        if (entry->last_use < oldest) oldest = entry->last_use;
      }
    }
  }
  FreeEntries(Unlink([oldest](Entry* entry) { return entry->last_use == oldest; }));
}

// Makes room, then adds the entry. Needs build_mutex.
void Insert(Entry* entry) {
  // What was known for this address was overwritten behind TensorFlow's back.
  FreeEntries(Unlink([entry](Entry* other) { return other->data == entry->data; }));
  ReleaseUnusedLocked();
  if (num_entries >= kMaxEntries) ReleaseLeastRecentlyUsed();
  Lock lock(&table_mutex);
  Entry*& head = buckets[BucketOf(entry->data)];
  entry->last_use = num_calls;
  entry->next = head;
  head = entry;
  ++num_entries;
}

// The layout for a use, or null.
const FcLayout* Find(const SharedLayout& shared, const LayoutUse& use) {
  const int num_layouts = __atomic_load_n(&shared.num_layouts, __ATOMIC_ACQUIRE);
  const FcLayout* other = nullptr;  // for these activations; any layout computes any batch
  for (int i = num_layouts - 1; i >= 0; --i) {
    const LayoutUse& made = shared.made[i].use;
    if (made.activations == use.activations) other = shared.made[i].layout;
    const bool is_same = FcSameLayout({shared.isa, made.activations, made.batch},
                                      {shared.isa, use.activations, use.batch});
    if (is_same && use.batch != kAnyBatch) return shared.made[i].layout;
  }
  return use.batch == kAnyBatch || num_layouts == kMostLayouts ? other : nullptr;
}

// Makes a layout and adds it. Needs build_mutex, and that Find found none.
Status AddLayout(const Entries& entries, const LayoutUse& use, SharedLayout* shared) {
  const int index = shared->num_layouts;
  if (index == kMostLayouts) return Status::kOutOfMemory;  // never: there are not as many kernels
  const Scratch scratch(entries.ScratchBytes());
  if (scratch.data() == nullptr) return Status::kOutOfMemory;
  PackedView view;
  Status status = entries.Unpack(scratch.data(), &view);
  if (status != Status::kOk) return status;
  status = MakeFcLayout(view, {shared->isa, use.activations, use.batch}, &shared->made[index].layout);
  if (status != Status::kOk) return status;
  shared->made[index].use = use;
  __atomic_store_n(&shared->num_layouts, index + 1, __ATOMIC_RELEASE);
  return Status::kOk;
}

// One reference, the caller's; null: without memory, or `*status` is not kOk. Needs build_mutex.
SharedLayout* MakeShared(const Entries& entries, const LayoutUse& use, Isa isa, Status* status) {
  auto* shared = static_cast<SharedLayout*>(calloc(1, sizeof(SharedLayout)));
  *status = Status::kOutOfMemory;
  if (shared == nullptr) return nullptr;
  shared->isa = isa;
  shared->references = 1;
  *status = AddLayout(entries, use, shared);
  if (*status == Status::kOk) {
    ++num_layouts_made;
    return shared;
  }
  free(shared);
  return nullptr;
}

// A packed tensor as it came; deletes it unless it was taken.
struct Packed {
  TF_Tensor* tensor;
  const uint8_t* data;
  size_t num_bytes;
  uint32_t checksum;

  explicit Packed(TF_Tensor* owned)
      : tensor(owned),
        data(static_cast<const uint8_t*>(tf.TF_TensorData(owned))),
        num_bytes(tf.TF_TensorByteSize(owned)),
        checksum(ChecksumOf(data, num_bytes)) {}
  ~Packed() {
    if (tensor != nullptr) tf.TF_DeleteTensor(tensor);
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  TF_Tensor* Take() {
    TF_Tensor* taken = tensor;
    tensor = nullptr;
    return taken;
  }
};

LayoutLookup Failure(const char* error) { return {nullptr, nullptr, error, false}; }

LayoutLookup Failure(Status status) {
  return {nullptr, nullptr, StatusMessage(status), status == Status::kOutOfMemory};
}

// Another layout of a content that is known; the caller has a reference. Needs build_mutex.
LayoutLookup AddAnother(const Packed& packed, const LayoutUse& use, SharedLayout* shared) {
  Entries entries(packed.data, packed.num_bytes);
  const char* error = entries.Parse();
  const Status status = error == nullptr ? AddLayout(entries, use, shared) : Status::kOk;
  if (error == nullptr && status == Status::kOk) return {shared, Find(*shared, use), nullptr, false};
  ReleaseLayout(shared);
  return error != nullptr ? Failure(error) : Failure(status);
}

// The first layout of a content. Needs build_mutex.
LayoutLookup MakeFirst(const Packed& packed, const LayoutUse& use, const SizeCheck& check) {
  bool isa_ok = false;
  const Isa isa = SelectIsa(&isa_ok);
  if (!isa_ok) return Failure(kUnknownIsa);
  Entries entries(packed.data, packed.num_bytes);
  const char* error = entries.Parse();
  if (error != nullptr) return Failure(error);
  if (!check.accept(check.caller, entries.rows(), entries.cols(), entries.is_coded())) return Failure(nullptr);
  Status status;
  SharedLayout* shared = MakeShared(entries, use, isa, &status);
  return shared != nullptr ? LayoutLookup{shared, shared->made[0].layout, nullptr, false} : Failure(status);
}

// The slow path: a new address, or a use of a kind that is new for it.
LayoutLookup FindOrMake(Packed* packed, const LayoutUse& use, const SizeCheck& check) {
  Lock lock(&build_mutex);
  bool ignored;
  SharedLayout* shared = FindByAddress(packed->data, packed->num_bytes, packed->checksum, &ignored);
  const bool is_new = shared == nullptr;  // else another thread may have been first
  if (is_new) shared = FindByContent(packed->data, packed->num_bytes, packed->checksum);
  LayoutLookup found = {shared, shared != nullptr ? Find(*shared, use) : nullptr, nullptr, false};
  if (shared == nullptr) {
    found = MakeFirst(*packed, use, check);
  } else if (found.layout == nullptr) {
    found = AddAnother(*packed, use, shared);
  }
  if (found.shared == nullptr || !is_new) return found;
  auto* entry = static_cast<Entry*>(calloc(1, sizeof(Entry)));
  if (entry == nullptr) {
    ReleaseLayout(found.shared);
    return Failure(Status::kOutOfMemory);
  }
  *entry = {packed->Take(), packed->data, packed->num_bytes, packed->checksum, Retain(found.shared), 0, nullptr};
  Insert(entry);
  return found;
}

}  // namespace

LayoutLookup AcquireLayout(TF_Tensor* tensor, const LayoutUse& use, const SizeCheck& check) {
  Packed packed(tensor);
  bool release_is_due = false;
  SharedLayout* shared = FindByAddress(packed.data, packed.num_bytes, packed.checksum, &release_is_due);
  const FcLayout* layout = shared != nullptr ? Find(*shared, use) : nullptr;
  if (layout == nullptr) {
    if (shared != nullptr) ReleaseLayout(shared);
    return FindOrMake(&packed, use, check);
  }
  if (release_is_due) ReleaseUnused();
  return {shared, layout, nullptr, false};
}

void ReleaseLayout(SharedLayout* shared) {
  if (__atomic_sub_fetch(&shared->references, 1, __ATOMIC_ACQ_REL) != 0) return;
  for (int i = 0; i < shared->num_layouts; ++i) FreeFcLayout(shared->made[i].layout);
  free(shared);
}

void ReleaseUnused() {
  if (pthread_mutex_trylock(&build_mutex) != 0) return;  // a layout is being made, and that releases too
  ReleaseUnusedLocked();
  pthread_mutex_unlock(&build_mutex);
}

void CacheCounts(int64_t* layouts_made, int64_t* entries) {
  Lock lock(&build_mutex);
  *layouts_made = num_layouts_made;
  *entries = num_entries;
}

}  // namespace keras_prune
