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
  const __m512 a = _mm512_cvtepi32_ps(kA), b = _mm512_cvtepi32_ps(kB);
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
  const __m256i low256 = _mm512_castsi512_si256(kA);
  const std::vector<uint16_t> u16 = LanesOf<uint16_t>(kA);
  const std::vector<int16_t> i16 = LanesOf<int16_t>(kA);
  ExpectLanes<int32_t>("cvtepu8_epi32", _mm512_cvtepu8_epi32(low128), [](size_t i) { return int32_t{kAU8[i]}; });
  ExpectLanes<int32_t>("cvtepi8_epi32", _mm512_cvtepi8_epi32(low128), [](size_t i) { return int32_t{kAI8[i]}; });
  ExpectLanes<int16_t>("cvtepu8_epi16", _mm512_cvtepu8_epi16(low256), [](size_t i) { return int16_t{kAU8[i]}; });
  ExpectLanes<int16_t>("cvtepi8_epi16", _mm512_cvtepi8_epi16(low256), [](size_t i) { return int16_t{kAI8[i]}; });
  ExpectLanes<int32_t>("cvtepu16_epi32", _mm512_cvtepu16_epi32(low256), [&](size_t i) { return int32_t{u16[i]}; });
  ExpectLanes<int32_t>("cvtepi16_epi32", _mm512_cvtepi16_epi32(low256), [&](size_t i) { return int32_t{i16[i]}; });
  ExpectLanes<int8_t>("cvtepi32_epi8", _mm512_cvtepi32_epi8(kA), [](size_t i) { return kAI8[4 * i]; });
  ExpectLanes<int16_t>("cvtepi32_epi16", _mm512_cvtepi32_epi16(kA), [&](size_t i) { return i16[2 * i]; });
  ExpectLanes<float>("cvtepi32_ps", _mm512_cvtepi32_ps(kA), [](size_t i) { return static_cast<float>(kAI32[i]); });
}

TEST(FloatsAreRoundedToEven) {
  const float from[16] = {0.5f,   1.5f,  2.5f,    -0.5f, -1.5f, -2.5f, 0.49f, -126.5f,
                          126.5f, 127.49f, 3e9f, -3e9f, NAN,   7.0f,  -0.0f, 1e-30f};
  const int32_t to[16] = {0, 2, 2, 0, -2, -2, 0, -126, 126, 127, INT32_MIN, INT32_MIN, INT32_MIN, 7, 0, 0};
  ExpectLanes<int32_t>("cvtps_epi32", _mm512_cvtps_epi32(_mm512_loadu_ps(from)), [&](size_t i) { return to[i]; });
  ExpectLanes<int32_t>("cvttps_epi32", _mm512_cvttps_epi32(_mm512_loadu_ps(from)), [&](size_t i) {
    return std::fabs(from[i]) < 2e9f ? static_cast<int32_t>(from[i]) : INT32_MIN;
  });
}

TEST(TheSecondOperandStandsForNan) {
  const __m512 nan = _mm512_set1_ps(NAN), one = _mm512_set1_ps(1.0f);
  ExpectLanes<float>("max_ps", _mm512_max_ps(nan, one), [](size_t) { return 1.0f; });
  ExpectLanes<float>("min_ps", _mm512_min_ps(nan, one), [](size_t) { return 1.0f; });
}

TEST(SignsComeInFromTheLeft) {
  for (unsigned count : {0u, 1u, 24u, 31u, 32u, 200u}) {
    const unsigned shift = count < 32 ? count : 31;
    ExpectLanes<int32_t>("srai_epi32", _mm512_srai_epi32(kA, count), [&](size_t i) { return kAI32[i] >> shift; });
    ExpectLanes<uint32_t>("srli_epi32", _mm512_srli_epi32(kA, count), [&](size_t i) {
      return count < 32 ? static_cast<uint32_t>(kAI32[i]) >> count : 0u;
    });
  }
}

TEST(MaskedLanes) {
  const __mmask16 mask = 0xA51C;
  const __m512 a = _mm512_cvtepi32_ps(kA), b = _mm512_cvtepi32_ps(kB), c = _mm512_set1_ps(2.0f);
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

// From and to memory of exactly the lanes that the mask has: the address sanitizer sees any other.
template <typename Lane, typename Load, typename Store>
void CheckMaskedMemory(const char* name, size_t lanes, Load&& load, Store&& store) {
  for (size_t count = 0; count <= lanes; ++count) {
    const uint64_t mask = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    std::vector<Lane> from(count), to(count);
    for (size_t i = 0; i < count; ++i) from[i] = static_cast<Lane>(3 * i + 1);
    const auto loaded = load(mask, from.data());
    ExpectLanes<Lane>(name, loaded, [&](size_t i) { return i < count ? from[i] : Lane{0}; });
    store(to.data(), mask, loaded);
    EXPECT(from == to, "%s: %zu lanes stored", name, count);
  }
}

#define CHECK_MASKED_MEMORY(Lane, lanes, bits, suffix)                                                     \
  CheckMaskedMemory<Lane>(                                                                                 \
      #bits "_" #suffix, lanes,                                                                            \
      [](uint64_t mask, const Lane* from) { return bits##_maskz_loadu_##suffix(mask, from); },             \
      [](Lane* to, uint64_t mask, auto whole) { bits##_mask_storeu_##suffix(to, mask, whole); })

TEST(MaskedMemory) {
  CHECK_MASKED_MEMORY(float, 16, _mm512, ps);
  CHECK_MASKED_MEMORY(int8_t, 64, _mm512, epi8);
  CHECK_MASKED_MEMORY(int16_t, 32, _mm512, epi16);
  CHECK_MASKED_MEMORY(int32_t, 16, _mm512, epi32);
  CHECK_MASKED_MEMORY(float, 8, _mm256, ps);
  CHECK_MASKED_MEMORY(int8_t, 32, _mm256, epi8);
  CHECK_MASKED_MEMORY(int8_t, 16, _mm, epi8);
  const float one = 1.0f;
  ExpectLanes<float>("mask_loadu_ps", _mm512_mask_loadu_ps(_mm512_set1_ps(5.0f), 1, &one),
                     [](size_t i) { return i == 0 ? 1.0f : 5.0f; });
}

TEST(Sums) {
  float in_order = 0.0f;
  for (int i = 0; i < 16; ++i) in_order += static_cast<float>(i * i);
  float squares[16];
  for (int i = 0; i < 16; ++i) squares[i] = static_cast<float>(i * i);
  EXPECT(_mm512_reduce_add_ps(_mm512_loadu_ps(squares)) == in_order, "reduce_add_ps");
  EXPECT(_mm512_reduce_max_ps(_mm512_loadu_ps(squares)) == 225.0f, "reduce_max_ps");
  uint32_t sum = 0;
  for (int32_t lane : kAI32) sum += static_cast<uint32_t>(lane);
  EXPECT(static_cast<uint32_t>(_mm512_reduce_add_epi32(kA)) == sum, "reduce_add_epi32");
}

TEST(Gathers) {
  float table[100];
  for (int i = 0; i < 100; ++i) table[i] = static_cast<float>(i);
  int32_t at[16];
  for (int i = 0; i < 16; ++i) at[i] = (i * 29) % 100 - 50;
  ExpectLanes<float>("i32gather_ps", _mm512_i32gather_ps(_mm512_loadu_si512(at), table + 50, 4),
                     [&](size_t i) { return static_cast<float>(at[i] + 50); });
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
