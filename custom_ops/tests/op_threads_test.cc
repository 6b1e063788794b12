// How many threads a call of the TensorFlow op gets, and the memory that calls take turns with.
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../tf/threads.h"
#include "../tf/workspace.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

int Threads() {
  const Computing computing;
  return NumThreads(computing.workers());
}

TEST(TheHostSaysHowMany) {
  for (int wanted : {1, 2, 3, 1}) {
    SetNumThreads(wanted);
    EXPECT(Threads() == std::min(wanted, NumCpus()), "%d for %d", Threads(), wanted);
  }
  SetNumThreads(1 << 20);
  EXPECT(Threads() == NumCpus(), "%d threads", Threads());
}

// main sets the environment variable, as long as the process may start.
TEST(ElseTheEnvironmentDoes) {
  for (int unset : {0, -1}) {
    SetNumThreads(2);
    SetNumThreads(unset);
    EXPECT(Threads() == 1, "%d threads", Threads());
  }
}

TEST(CallsAtTheSameTimeComputeOnOneThreadEach) {
  SetNumThreads(2);
  Workers* pool;
  {
    const Computing first;
    pool = first.workers();
    const Computing second;
    EXPECT(second.workers() == nullptr && NumThreads(pool) == std::min(2, NumCpus()), "both have threads");
  }
  const Computing third;
  EXPECT(third.workers() == pool, "another pool");
}

TEST(AWorkspaceIsUsedAgain) {
  void* first;
  {
    const Workspace workspace(1000);
    first = workspace.data();
    EXPECT(reinterpret_cast<uintptr_t>(first) % kWorkspaceAlignment == 0, "%p", first);
    std::memset(first, 1, 1000);
  }
  for (size_t num_bytes : {size_t{1000}, size_t{1}}) {
    const Workspace workspace(num_bytes);
    EXPECT(workspace.data() == first, "%zu bytes", num_bytes);
  }
  {
    const Workspace none(0), larger(5000);
    EXPECT(none.data() == nullptr && larger.data() != nullptr, "of no bytes");
    std::memset(larger.data(), 2, 5000);
  }
  ReleaseSpareWorkspaces();
}

TEST(WorkspacesAreNotShared) {
  constexpr int kMany = kMostSpares + 3;
  for (int round = 0; round < 2; ++round) {
    alignas(Workspace) char memory[kMany][sizeof(Workspace)];
    std::vector<void*> data;
    for (char* one : memory) data.push_back((new (one) Workspace(300))->data());
    for (void* one : data) std::memset(one, 3, 300);
    std::sort(data.begin(), data.end());
    EXPECT(std::unique(data.begin(), data.end()) == data.end(), "given out twice");
    for (char* one : memory) reinterpret_cast<Workspace*>(one)->~Workspace();
  }
  ReleaseSpareWorkspaces();
}

TEST(MoreMemoryThanThereIs) {
  for (size_t num_bytes : {SIZE_MAX, size_t{PTRDIFF_MAX}}) {
    const Workspace workspace(num_bytes);
    EXPECT(workspace.data() == nullptr, "%zu bytes", num_bytes);
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() {
  setenv("TF_NUM_INTRAOP_THREADS", "1", 1);  // read at the first call
  return keras_prune_test::RunAll();
}
