// The functions that stand in for AVX-512 do what Intel's guide says, in every lane: those of avx512_emulation.h, and
// those of SIMDe whose definition has a corner (saturation, signs, bits of an index that are ignored).
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../kernels/x86_intrinsics.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

// Bytes of all signs that never repeat in a register.
__m512i Bytes(unsigned factor) {
  uint8_t bytes[64];
  for (unsigned i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i * factor + 3 * factor / 2);
  return _mm512_loadu_si512(bytes);
}

template <typename Lane, typename Register>
std::vector<Lane> LanesOf(Register whole) {
  std::vector<Lane> lanes(sizeof whole / sizeof(Lane));
  std::memcpy(lanes.data(), &whole, sizeof whole);
  return lanes;
}

template <typename Lane, typename Register, typename Function>
void ExpectLanes(const char* name, Register got, Function&& want) {
  const std::vector<Lane> lanes = LanesOf<Lane>(got);
  for (size_t i = 0; i < lanes.size(); ++i) {
    const Lane wanted = want(i);
    EXPECT(std::memcmp(&lanes[i], &wanted, sizeof wanted) == 0, "%s lane %zu: %g, not %g", name, i,
           static_cast<double>(lanes[i]), static_cast<double>(wanted));
  }
}

// The lanes as numbers.
__m512 Floats(__m512i whole) {
  float floats[16];
  for (int i = 0; i < 16; ++i) floats[i] = static_cast<float>(LanesOf<int32_t>(whole)[i]);
  return _mm512_loadu_ps(floats);
}

const __m512i kA = Bytes(37), kB = Bytes(91);
const std::vector<uint8_t> kAU8 = LanesOf<uint8_t>(kA), kBU8 = LanesOf<uint8_t>(kB);
const std::vector<int8_t> kAI8 = LanesOf<int8_t>(kA), kBI8 = LanesOf<int8_t>(kB);
const std::vector<int32_t> kAI32 = LanesOf<int32_t>(kA), kBI32 = LanesOf<int32_t>(kB);

TEST(BytesAreLookedUp) {
  ExpectLanes<uint8_t>("permutexvar_epi8", _mm512_permutexvar_epi8(kA, kB),
                       [](size_t i) { return kBU8[kAU8[i] % 64]; });
  ExpectLanes<uint8_t>("permutex2var_epi8", _mm512_permutex2var_epi8(kA, kB, kA),
                       [](size_t i) { return kAU8[kBU8[i] % 64]; });
  ExpectLanes<uint8_t>("permutex2var_epi8", _mm512_permutex2var_epi8(kA, kB, kB),
                       [](size_t i) { return (kBU8[i] & 64) != 0 ? kBU8[kBU8[i] % 64] : kAU8[kBU8[i] % 64]; });
}

TEST(BytesOfFourParts) {
  ExpectLanes<uint8_t>("shuffle_epi8", _mm512_shuffle_epi8(kA, kB), [](size_t i) {
    return static_cast<uint8_t>(kBU8[i] > 127 ? 0 : kAU8[i / 16 * 16 + kBU8[i] % 16]);
  });
  ExpectLanes<int32_t>("broadcast_i32x4", _mm512_broadcast_i32x4(_mm512_castsi512_si128(kA)),
                       [](size_t i) { return kAI32[i % 4]; });
}

TEST(SignsOfBytes) {
  ExpectLanes<uint8_t>("abs_epi8", _mm512_abs_epi8(kA),
                       [](size_t i) { return static_cast<uint8_t>(std::abs(kAI8[i])); });
  const __m512i least = _mm512_set1_epi8(-128);
  ExpectLanes<int8_t>("abs_epi8", _mm512_abs_epi8(least), [](size_t) { return int8_t{-128}; });
  uint64_t negative = 0;
  for (int i = 0; i < 64; ++i) negative |= uint64_t{kAI8[i] < 0} << i;
  EXPECT(_mm512_movepi8_mask(kA) == negative, "movepi8_mask");
  ExpectLanes<uint8_t>("mask_sub_epi8", _mm512_mask_sub_epi8(kB, negative, _mm512_setzero_si512(), kB), [](size_t i) {
    return static_cast<uint8_t>(kAI8[i] < 0 ? -kBI8[i] : kBI8[i]);
  });
}

TEST(FloatsAreLookedUp) {
  const __m512 a = Floats(kA), b = Floats(kB);
  const auto value = [](int32_t i) { return static_cast<float>(i); };
  ExpectLanes<float>("permutexvar_ps", _mm512_permutexvar_ps(kA, b),
                     [&](size_t i) { return value(kBI32[kAU8[4 * i] % 16]); });
  ExpectLanes<float>("permutex2var_ps", _mm512_permutex2var_ps(a, kA, b), [&](size_t i) {
    const uint8_t index = kAU8[4 * i];
    return value((index & 16) != 0 ? kBI32[index % 16] : kAI32[index % 16]);
  });
}

int32_t Dot4(size_t lane) {
  int32_t sum = kAI32[lane] / 2;
  for (size_t k = 4 * lane; k < 4 * lane + 4; ++k) sum += kAU8[k] * kBI8[k];
  return sum;
}

TEST(UnsignedTimesSignedBytes) {
  std::vector<int32_t> half = kAI32;
  for (int32_t& lane : half) lane /= 2;
  ExpectLanes<int32_t>("dpbusd_epi32", _mm512_dpbusd_epi32(_mm512_loadu_si512(half.data()), kA, kB), Dot4);
  const auto pair = [](size_t i) {  // saturates
    const int sum = kAU8[2 * i] * kBI8[2 * i] + kAU8[2 * i + 1] * kBI8[2 * i + 1];
    return static_cast<int16_t>(sum < INT16_MIN ? INT16_MIN : sum > INT16_MAX ? INT16_MAX : sum);
  };
  ExpectLanes<int16_t>("maddubs_epi16", _mm512_maddubs_epi16(kA, kB), pair);
  const __m512i most = _mm512_set1_epi8(-1), largest = _mm512_set1_epi8(127), least = _mm512_set1_epi8(-128);
  ExpectLanes<int16_t>("maddubs_epi16", _mm512_maddubs_epi16(most, largest), [](size_t) { return int16_t{INT16_MAX}; });
  ExpectLanes<int16_t>("maddubs_epi16", _mm512_maddubs_epi16(most, least), [](size_t) { return int16_t{INT16_MIN}; });
  ExpectLanes<int32_t>("dpbusd_epi32", _mm512_dpbusd_epi32(_mm512_setzero_si512(), most, least),
                       [](size_t) { return 4 * 255 * -128; });
}

TEST(LanesAreConverted) {
  const __m128i low128 = _mm512_castsi512_si128(kA);
  ExpectLanes<int32_t>("cvtepu8_epi32", _mm512_cvtepu8_epi32(low128), [](size_t i) { return int32_t{kAU8[i]}; });
  ExpectLanes<int8_t>("cvtepi32_epi8", _mm512_cvtepi32_epi8(kA), [](size_t i) { return kAI8[4 * i]; });
}

TEST(FloatsAreCutOff) {
  const float from[16] = {0.5f,   1.5f,    2.5f, -0.5f, -1.5f, -2.5f, 0.49f, -126.5f,
                          126.5f, 127.49f, 3e9f, -3e9f, NAN,   7.0f,  -0.0f, 1e-30f};
  ExpectLanes<int32_t>("cvttps_epi32", _mm512_cvttps_epi32(_mm512_loadu_ps(from)), [&](size_t i) {
    return std::fabs(from[i]) < 2e9f ? static_cast<int32_t>(from[i]) : INT32_MIN;
  });
}

TEST(TheSecondOperandStandsForNan) {
  const __m512 nan = _mm512_set1_ps(NAN), one = _mm512_set1_ps(1.0f);
  ExpectLanes<float>("max_ps", _mm512_max_ps(nan, one), [](size_t) { return 1.0f; });
  ExpectLanes<float>("min_ps", _mm512_min_ps(nan, one), [](size_t) { return 1.0f; });
}

TEST(ZerosComeInFromTheLeft) {
  for (unsigned count : {0u, 1u, 24u, 31u, 32u, 200u}) {
    ExpectLanes<uint32_t>("srli_epi32", _mm512_srli_epi32(kA, count), [&](size_t i) {
      return count < 32 ? static_cast<uint32_t>(kAI32[i]) >> count : 0u;
    });
  }
}

TEST(MaskedLanes) {
  const __mmask16 mask = 0xA51C;
  const __m512 a = Floats(kA), b = Floats(kB), c = _mm512_set1_ps(2.0f);
  const auto bit = [&](size_t i) { return (mask >> i & 1) != 0; };
  ExpectLanes<float>("mask3_fmadd_ps", _mm512_mask3_fmadd_ps(a, b, c, mask), [&](size_t i) {
    return bit(i) ? std::fma(static_cast<float>(kAI32[i]), static_cast<float>(kBI32[i]), 2.0f) : 2.0f;
  });
  ExpectLanes<float>("mask_blend_ps", _mm512_mask_blend_ps(mask, a, b),
                     [&](size_t i) { return static_cast<float>(bit(i) ? kBI32[i] : kAI32[i]); });
  uint32_t want = 0;
  for (int i = 0; i < 16; ++i) want |= uint32_t{(kAI32[i] & 0x1200) != 0} << i;
  EXPECT(_mm512_test_epi32_mask(kA, _mm512_set1_epi32(0x1200)) == want, "test_epi32_mask");
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
