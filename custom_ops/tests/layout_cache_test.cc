// The TensorFlow op's cache of layouts, with tensors of our own in place of TensorFlow's: addresses and references are
// as each test needs them.
#include <pthread.h>

#include <cstring>
#include <memory>
#include <vector>

#include "../tf/layout_cache.h"
#include "packing.h"
#include "testing.h"

using Memory = std::shared_ptr<std::vector<uint8_t>>;

// A reference on a buffer; the buffer knows how many there are.
struct TF_Tensor {
  Memory memory;
};

namespace keras_prune {

TfApi tf;  // in place of tf_c_api.cc

}  // namespace keras_prune

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

void FakeTensorFlow() {
  tf.TF_DeleteTensor = [](TF_Tensor* tensor) { delete tensor; };
  tf.TF_TensorData = [](const TF_Tensor* tensor) { return static_cast<void*>(tensor->memory->data()); };
  tf.TF_TensorByteSize = [](const TF_Tensor* tensor) { return tensor->memory->size(); };
  tf.TF_TensorMaybeMove = [](TF_Tensor* tensor) -> TF_Tensor* {
    if (tensor->memory.use_count() != 1) return nullptr;
    auto* moved = new TF_Tensor{tensor->memory};
    delete tensor;
    return moved;
  };
}

Memory NewMemory(uint32_t seed) {
  return std::make_shared<std::vector<uint8_t>>(Pack(RandomLayer(5, 9, 0.4, 4, seed)));
}

struct Counts {
  int64_t made, entries;
};

Counts Now() {
  Counts counts;
  CacheCounts(&counts.made, &counts.entries);
  return counts;
}

struct Expected {
  uint32_t rows = 5, cols = 9;
  int asked = 0;
  bool coded = false;
  static bool Accept(void* caller, uint32_t rows, uint32_t cols, bool is_coded) {
    auto* expected = static_cast<Expected*>(caller);
    ++expected->asked;
    EXPECT(is_coded == expected->coded, "said of another version");
    return rows == expected->rows && cols == expected->cols;
  }
};

LayoutLookup Look(const Memory& memory, Expected* expected, size_t batch = 1,
                  Activations activations = Activations::kFloat32) {
  return AcquireLayout(new TF_Tensor{memory}, {activations, batch}, {Expected::Accept, expected});
}

// The layout's address after the caller gave it back: what the cache keeps.
SharedLayout* Use(const Memory& memory) {
  Expected expected;
  const LayoutLookup found = Look(memory, &expected);
  EXPECT(found.shared != nullptr && found.error == nullptr, "%s", found.error != nullptr ? found.error : "refused");
  if (found.shared != nullptr) ReleaseLayout(found.shared);
  return found.shared;
}

void Clear() {
  ReleaseUnused();
  EXPECT(Now().entries == 0, "%ld entries", static_cast<long>(Now().entries));
}

TEST(OneAddressMakesOneLayout) {
  {
    const Memory memory = NewMemory(1);
    const int64_t made = Now().made;
    SharedLayout* first = Use(memory);
    for (int i = 0; i < 10; ++i) EXPECT(Use(memory) == first, "call %d", i);
    EXPECT(Now().made == made + 1 && Now().entries == 1, "made %ld", static_cast<long>(Now().made - made));
  }
  Clear();
}

TEST(EqualBytesShareALayout) {
  {
    const Memory memory = NewMemory(2), copy = std::make_shared<std::vector<uint8_t>>(*memory);
    const int64_t made = Now().made;
    EXPECT(Use(memory) == Use(copy), "two layouts");
    EXPECT(Now().made == made + 1 && Now().entries == 2, "made %ld", static_cast<long>(Now().made - made));
  }
  Clear();
}

// As a tensor does that shares a NumPy array's memory.
TEST(OtherBytesInTheSamePlaceAreNoticed) {
  {
    const Memory memory = NewMemory(3);
    std::vector<uint8_t> bytes = *memory;
    bytes[36] ^= 1;  // the codebook's first value
    Seal(&bytes);
    const int64_t made = Now().made;
    Use(memory);
    *memory = bytes;
    Use(memory);
    EXPECT(Now().made == made + 2 && Now().entries == 1, "made %ld", static_cast<long>(Now().made - made));
  }
  Clear();
}

// Whether a batch of this size has a layout of its own on this CPU.
bool WantsAnother(size_t batch) {
  bool ok;
  const Isa isa = SelectIsa(&ok);
  return !FcSameLayout({isa, Activations::kFloat32, 1}, {isa, Activations::kFloat32, batch});
}

TEST(ALargeBatchGetsALayoutBesideTheFirst) {
  Clear();
  {
    const Memory memory = NewMemory(4);
    const int64_t made = Now().made;
    Expected expected;
    const LayoutLookup one = Look(memory, &expected), many = Look(memory, &expected, 64);
    EXPECT(one.shared == many.shared && (one.layout != many.layout) == WantsAnother(64), "not kept together");
    for (int round = 0; round < 3; ++round) {
      const LayoutLookup again[] = {Look(memory, &expected, 64), Look(memory, &expected), Look(memory, &expected, 100)};
      EXPECT(again[0].layout == many.layout && again[1].layout == one.layout, "made again");
      EXPECT((again[2].layout == many.layout) == (WantsAnother(64) == WantsAnother(100)), "not shared");
      for (const LayoutLookup& found : again) ReleaseLayout(found.shared);
    }
    EXPECT(Now().made == made + 1 && Now().entries == 1 && expected.asked == 1, "asked %d", expected.asked);
    const LayoutLookup any = Look(memory, &expected, kAnyBatch);
    EXPECT(any.layout == one.layout, "another than the first");
    for (const LayoutLookup& found : {one, many, any}) ReleaseLayout(found.shared);
  }
  Clear();
}

TEST(Int8ActivationsGetALayoutBesideTheOthers) {
  Clear();
  {
    const Memory memory = NewMemory(13);
    const int64_t made = Now().made;
    Expected expected;
    const auto int8 = [&](size_t batch) { return Look(memory, &expected, batch, Activations::kInt8); };
    const LayoutLookup found[] = {int8(kAnyBatch), Look(memory, &expected, kAnyBatch), Look(memory, &expected, 64)};
    EXPECT(std::strncmp(FcKernelName(found[0].layout), "s8_", 3) == 0, "%s", FcKernelName(found[0].layout));
    for (int i : {1, 2}) {
      EXPECT(found[i].shared == found[0].shared && found[i].layout != found[0].layout, "not kept together");
    }
    for (size_t batch : {size_t{1}, size_t{64}, kAnyBatch}) {
      const LayoutLookup again = int8(batch);
      EXPECT(again.shared == found[0].shared, "not kept together");
      EXPECT(batch == 64 || again.layout == found[0].layout, "made again");
      EXPECT(again.layout != found[1].layout && again.layout != found[2].layout, "of other activations");
      ReleaseLayout(again.shared);
    }
    const LayoutLookup any = Look(memory, &expected, kAnyBatch);
    EXPECT(any.layout == found[1].layout, "of other activations");
    EXPECT(Now().made == made + 1 && Now().entries == 1 && expected.asked == 1, "asked %d", expected.asked);
    for (const LayoutLookup& one : found) ReleaseLayout(one.shared);
    ReleaseLayout(any.shared);
  }
  Clear();
}

// Bytes that were damaged in shared memory are noticed where they are read again, and what was made of them stays.
TEST(ALayoutIsNotMadeOfDamagedBytes) {
  {
    const Memory memory = NewMemory(12);
    Use(memory);
    memory->back() ^= 1;
    Expected expected;
    const LayoutLookup found = Look(memory, &expected, 64);
    EXPECT((found.shared == nullptr && found.error != nullptr) == WantsAnother(64), "a layout of damaged bytes");
    if (found.shared != nullptr) ReleaseLayout(found.shared);
    Use(memory);
  }
  Clear();
}

TEST(UnusedBuffersAreReleasedNowAndThen) {
  const Memory held = NewMemory(5);
  Use(held);
  Use(NewMemory(6));  // nobody holds it any more
  EXPECT(Now().entries == 2, "%ld entries", static_cast<long>(Now().entries));
  for (int call = 0; call < 3000; ++call) Use(held);  // hits only: no miss releases it
  EXPECT(Now().entries == 1, "%ld entries", static_cast<long>(Now().entries));
}

TEST(UnusedBuffersAreReleasedAtAMiss) {
  Clear();
  Use(NewMemory(7));
  const Memory held = NewMemory(8);
  Use(held);
  EXPECT(Now().entries == 1, "%ld entries", static_cast<long>(Now().entries));
}

TEST(TheLeastRecentlyUsedGoesFirst) {
  Clear();
  std::vector<Memory> held;
  for (uint32_t i = 0; i < 1024; ++i) Use(held.emplace_back(NewMemory(1000 + i)));
  EXPECT(Now().entries == 1024, "%ld entries", static_cast<long>(Now().entries));
  Use(held[0]);
  Use(held.emplace_back(NewMemory(5000)));  // in place of held[1]
  EXPECT(Now().entries == 1024, "%ld entries", static_cast<long>(Now().entries));
  const int64_t made = Now().made;
  for (size_t i : {size_t{0}, size_t{2}, size_t{1023}, size_t{1024}}) Use(held[i]);
  EXPECT(Now().made == made, "made %ld", static_cast<long>(Now().made - made));
  Use(held[1]);
  EXPECT(Now().made == made + 1, "the oldest was kept");
  held.clear();
  Clear();
}

TEST(ALayoutOutlivesItsEntry) {
  Expected expected;
  const LayoutLookup found = Look(NewMemory(9), &expected);
  Clear();
  EXPECT(FcRows(found.layout) == 5, "%u", FcRows(found.layout));
  ReleaseLayout(found.shared);
}

TEST(SizesAreCheckedBeforeALayoutIsMade) {
  const Memory memory = NewMemory(10);
  const int64_t made = Now().made;
  Expected other = {6, 9};
  const LayoutLookup refused = Look(memory, &other);
  EXPECT(refused.shared == nullptr && refused.error == nullptr && other.asked == 1, "asked %d", other.asked);
  EXPECT(Now().made == made && Now().entries == 0, "made");
  Use(memory);
}

TEST(BadBytesAreErrors) {
  Clear();
  for (size_t cut : {size_t{0}, size_t{3}, size_t{35}, size_t{36}}) {
    const Memory memory = NewMemory(11);
    memory->resize(cut);
    Expected expected;
    const LayoutLookup found = Look(memory, &expected);
    EXPECT(found.shared == nullptr && found.error != nullptr && expected.asked == 0, "%zu bytes", cut);
  }
  EXPECT(Now().entries == 0, "an entry for bad bytes");
}

std::vector<Memory>* shared_memories;

void* UseThemAll(void*) {
  for (int round = 0; round < 50; ++round) {
    for (const Memory& memory : *shared_memories) {
      Use(memory);
      Expected expected;
      const LayoutLookup found = Look(memory, &expected, 64);
      EXPECT(found.layout != nullptr, "no layout for a large batch");
      if (found.shared != nullptr) ReleaseLayout(found.shared);
    }
    ReleaseUnused();
  }
  return nullptr;
}

TEST(ManyThreads) {
  Clear();
  std::vector<Memory> memories;
  for (uint32_t i = 0; i < 20; ++i) memories.push_back(NewMemory(2000 + i));
  shared_memories = &memories;
  const int64_t made = Now().made;
  pthread_t threads[4];
  for (pthread_t& thread : threads) pthread_create(&thread, nullptr, UseThemAll, nullptr);
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  EXPECT(Now().made == made + 20, "made %ld", static_cast<long>(Now().made - made));
  memories.clear();
  Clear();
}

}  // namespace
}  // namespace keras_prune_test

int main() {
  keras_prune_test::FakeTensorFlow();
  return keras_prune_test::RunAll();
}
