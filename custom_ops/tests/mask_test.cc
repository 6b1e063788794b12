// Every kernel of masks against the definition: all tails, unaligned, in place, NaN and negative zero.
#include "../kernels/mask.h"

#include <cstring>
#include <vector>

#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;
using Floats = std::vector<float>;

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> found;
  for (const Isa isa : {Isa::kReference, Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi, Isa::kNeon}) {
    if (IsaSupported(isa)) found.push_back(isa);
  }
  return found;
}

Floats Signed(size_t count) {
  Floats values(count);
  uint32_t state = 7;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(state)) * 1e-6f;
  }
  return values;
}

bool SameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

TEST(EveryTailAtAnOddAddress) {
  for (const Isa isa : SupportedIsas()) {
    for (size_t count = 0; count < 70; ++count) {
      const Floats w = Signed(count + 1);
      std::vector<uint8_t> mask(count + 1);
      for (size_t i = 0; i <= count; ++i) mask[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 255;
      Floats expected(count), got(count, 1.0f), in_place(w.begin() + 1, w.end());
      for (size_t i = 0; i < count; ++i) expected[i] = mask[1 + i] != 0 ? w[1 + i] : 0.0f;
      ApplyMask(isa, w.data() + 1, mask.data() + 1, count, got.data());
      EXPECT(SameBits(expected, got), "%s, %zu weights", IsaName(isa), count);
      ApplyMask(isa, in_place.data(), mask.data() + 1, count, in_place.data());
      EXPECT(SameBits(expected, in_place), "%s, %zu weights in place", IsaName(isa), count);
    }
  }
}

TEST(PrunedNanAndNegativeZeroBecomeZeroAndKeptOnesStay) {
  for (const Isa isa : SupportedIsas()) {
    Floats w(40, __builtin_nanf("")), got(40), expected(40, 0.0f);
    std::vector<uint8_t> mask(40, 0);
    for (size_t i = 20; i < 40; ++i) w[i] = -0.0f;
    for (const size_t kept : {3, 25, 39}) {
      mask[kept] = 1;
      expected[kept] = w[kept];
    }
    ApplyMask(isa, w.data(), mask.data(), w.size(), got.data());
    EXPECT(SameBits(expected, got), "%s", IsaName(isa));
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
