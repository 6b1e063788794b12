#include "layout_cache.h"

#include <pthread.h>

#include <cstdlib>
#include <cstring>

namespace keras_prune {
namespace {

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

// Parses, checks and builds; the result has one reference, the caller's, or is null: refused by `check` if kOk. Needs
// build_mutex.
Status MakeShared(const uint8_t* data, size_t num_bytes, Isa isa, const SizeCheck& check, SharedLayout** out) {
  PackedView view;
  const Status parsed = ParsePacked(data, num_bytes, &view);
  if (parsed != Status::kOk || !check.accept(check.caller, view.rows, view.cols)) return parsed;
  SharedLayout* shared = static_cast<SharedLayout*>(calloc(1, sizeof(SharedLayout)));
  if (shared == nullptr) return Status::kOutOfMemory;
  const Status made = MakeFcLayout(view, {isa}, &shared->layout);
  if (made != Status::kOk) {
    free(shared);
    return made;
  }
  shared->references = 1;
  ++num_layouts_made;
  *out = shared;
  return Status::kOk;
}

// The slow path: a new address.
LayoutLookup FindOrMake(TF_Tensor* packed, const uint8_t* data, size_t num_bytes, uint32_t checksum,
                        const SizeCheck& check) {
  Lock lock(&build_mutex);
  bool ignored;
  SharedLayout* shared = FindByAddress(data, num_bytes, checksum, &ignored);  // another thread may have been first
  if (shared != nullptr) {
    tf.TF_DeleteTensor(packed);
    return {shared, nullptr, false};
  }
  shared = FindByContent(data, num_bytes, checksum);
  Status status = Status::kOk;
  if (shared == nullptr) {
    bool isa_ok = false;
    const Isa isa = SelectIsa(&isa_ok);
    if (!isa_ok) {
      tf.TF_DeleteTensor(packed);
      return {nullptr, "KERAS_PRUNE_ISA names an instruction set that is unknown or that this CPU lacks; unset it",
              false};
    }
    status = MakeShared(data, num_bytes, isa, check, &shared);
    if (shared == nullptr && status == Status::kOk) {
      tf.TF_DeleteTensor(packed);
      return {nullptr, nullptr, false};
    }
  }
  Entry* entry = shared == nullptr ? nullptr : static_cast<Entry*>(calloc(1, sizeof(Entry)));
  if (entry == nullptr) {
    if (shared != nullptr) ReleaseLayout(shared);
    tf.TF_DeleteTensor(packed);
    if (status == Status::kOk) status = Status::kOutOfMemory;
    return {nullptr, StatusMessage(status), status == Status::kOutOfMemory};
  }
  *entry = {packed, data, num_bytes, checksum, Retain(shared), 0, nullptr};
  Insert(entry);
  return {shared, nullptr, false};
}

}  // namespace

LayoutLookup AcquireLayout(TF_Tensor* packed, const SizeCheck& check) {
  const uint8_t* data = static_cast<const uint8_t*>(tf.TF_TensorData(packed));
  const size_t num_bytes = tf.TF_TensorByteSize(packed);
  const uint32_t checksum = ChecksumOf(data, num_bytes);
  bool release_is_due = false;
  SharedLayout* shared = FindByAddress(data, num_bytes, checksum, &release_is_due);
  if (shared == nullptr) return FindOrMake(packed, data, num_bytes, checksum, check);
  tf.TF_DeleteTensor(packed);
  if (release_is_due) ReleaseUnused();
  return {shared, nullptr, false};
}

void ReleaseLayout(SharedLayout* shared) {
  if (__atomic_sub_fetch(&shared->references, 1, __ATOMIC_ACQ_REL) != 0) return;
  FreeFcLayout(shared->layout);
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
