// Memory for the time in which a layout is made: from malloc, and from the system.
#include "../scratch.h"

#include <cstring>

#include "testing.h"

namespace keras_prune_test {
namespace {

using keras_prune::Scratch;

TEST(AllOfItCanBeUsed) {
  for (size_t num_bytes : {size_t{0}, size_t{1}, size_t{65535}, size_t{65536}, size_t{1} << 24}) {
    const Scratch scratch(num_bytes);
    EXPECT(scratch.data() != nullptr, "%zu bytes", num_bytes);
    std::memset(scratch.data(), 1, num_bytes);
  }
}

TEST(MoreMemoryThanThereIs) {
  for (uint64_t num_bytes : {UINT64_MAX, uint64_t{1} << 63, uint64_t{1} << 62}) {
    const Scratch scratch(num_bytes);
    EXPECT(scratch.data() == nullptr, "memory");
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
