// Every kernel of masks against the definition: all tails, unaligned, in place, NaN and negative zero.
#include "../kernels/mask.h"

#include <string.h>

#include <vector>

#include "testing.h"

namespace keras_prune {
namespace {

std::vector<float> Signed(size_t count) {
  std::vector<float> values(count);
  uint32_t state = 7;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(state)) * 1e-6f;
  }
  return values;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void CheckIsa(Isa isa) {
  for (size_t count = 0; count < 70; ++count) {
    std::vector<float> w = Signed(count + 1);
    std::vector<uint8_t> mask(count + 1);
    for (size_t i = 0; i <= count; ++i) mask[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 255;
    if (count > 3) {
      w[1 + 3] = __builtin_nanf("");  // pruned below: mask[1 + 3 - 1 + ...] is read from the same offset
      w[1 + 2] = -0.0f;
    }
    std::vector<float> expected(count), got(count, 1.0f);
    for (size_t i = 0; i < count; ++i) expected[i] = mask[1 + i] != 0 ? w[1 + i] : 0.0f;
    ApplyMask(isa, w.data() + 1, mask.data() + 1, count, got.data());
    CHECK(SameBits(expected, got));
    std::vector<float> in_place(w.begin() + 1, w.end());
    ApplyMask(isa, in_place.data(), mask.data() + 1, count, in_place.data());
    CHECK(SameBits(expected, in_place));
  }
}

void PrunedNanAndNegativeZeroBecomeZero(Isa isa) {
  std::vector<float> w(16, __builtin_nanf("")), got(16);
  for (size_t i = 8; i < 16; ++i) w[i] = -0.0f;
  const std::vector<uint8_t> mask(16, 0);
  ApplyMask(isa, w.data(), mask.data(), w.size(), got.data());
  CHECK(SameBits(std::vector<float>(16, 0.0f), got));
}

}  // namespace
}  // namespace keras_prune

int main() {
  using keras_prune::Isa;
  for (const Isa isa : {Isa::kReference, Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!keras_prune::IsaSupported(isa)) continue;
    keras_prune::CheckIsa(isa);
    keras_prune::PrunedNanAndNegativeZeroBecomeZero(isa);
  }
  return TestResult();
}
