// What tests of kernels share: the instruction sets of this CPU, and memory that shows what a kernel touches.
#ifndef KERAS_PRUNE_TESTS_SUPPORTED_H_
#define KERAS_PRUNE_TESTS_SUPPORTED_H_

#include <stdlib.h>

#include <cstring>
#include <limits>
#include <vector>

#include "../kernels/fully_connected.h"
#include "packing.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

constexpr Isa kAllIsas[] = {Isa::kReference, Isa::kScalar, Isa::kAvx2,   Isa::kAvx512,
                            Isa::kAvx512Vbmi, Isa::kNeon,   Isa::kNeonDot};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = 12345.0f;  // stands after every output: nothing may write there
constexpr size_t kGuards = 32;

inline std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (Isa isa : kAllIsas) {
    if (IsaSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Of exactly the needed size and full of NaN: the address sanitizer sees each access past it, the comparison what is
// read before it is written.
class Workspace {
 public:
  explicit Workspace(size_t num_bytes) {
    if (num_bytes == 0) return;
    EXPECT(posix_memalign(&memory_, kWorkspaceAlignment, num_bytes) == 0, "%zu bytes", num_bytes);
    std::memset(memory_, 0xFF, num_bytes);
  }
  Workspace(const FcLayout* layout, size_t batch, int num_threads = 1)
      : Workspace(FcWorkspaceBytes(layout, batch, num_threads)) {}
  ~Workspace() { free(memory_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* memory() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

}  // namespace
}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_SUPPORTED_H_
