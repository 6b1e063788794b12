// AVX-512 for a CPU that has AVX2 alone: SIMDe's functions under the intrinsics' names, and below them the intrinsics
// that SIMDe 0.7.4 lacks, lane by lane as Intel's guide defines them. A kernel that uses another one does not compile
// ("target specific option mismatch"): add it here and to avx512_emulation_test.cc.
#ifndef KERAS_PRUNE_TESTS_AVX512_EMULATION_H_
#define KERAS_PRUNE_TESTS_AVX512_EMULATION_H_

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wignored-attributes"  // registers as template arguments: their alignment is not used

namespace avx512_emulation {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, as the compiler's own

// A register as an array, without its type's alignment and aliasing rules.
template <typename Lane, typename Register>
struct Lanes {
  static constexpr int kCount = sizeof(Register) / sizeof(Lane);
  Lane at[kCount];
  explicit Lanes(Register whole) { std::memcpy(at, &whole, sizeof at); }
  Register Whole() const {
    Register whole;
    std::memcpy(&whole, at, sizeof whole);
    return whole;
  }
};

// Lanes whose bit in the mask is 0 keep `old`; their memory is not read.
template <typename Lane, typename Register>
Register MaskLoad(Register old, uint64_t mask, const void* from) {
  Lanes<Lane, Register> lanes(old);
  for (int i = 0; i < lanes.kCount; ++i) {
    if (mask >> i & 1) std::memcpy(&lanes.at[i], static_cast<const char*>(from) + i * sizeof(Lane), sizeof(Lane));
  }
  return lanes.Whole();
}

template <typename Lane, typename Register>
void MaskStore(void* to, uint64_t mask, Register from) {
  const Lanes<Lane, Register> lanes(from);
  for (int i = 0; i < lanes.kCount; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<char*>(to) + i * sizeof(Lane), &lanes.at[i], sizeof(Lane));
  }
}

// Each lane as another type: widened, cut off, or made a float.
template <typename ToLane, typename To, typename FromLane, typename From>
To Convert(From from) {
  const Lanes<FromLane, From> old(from);
  Lanes<ToLane, To> made(To{});
  static_assert(made.kCount == old.kCount, "as many lanes");
  for (int i = 0; i < made.kCount; ++i) made.at[i] = static_cast<ToLane>(old.at[i]);
  return made.Whole();
}

// The lower half and the upper half, until one lane is left: the order of GCC's and Clang's own.
template <typename Lane, typename Register, typename Function>
Lane Reduce(Register whole, Function&& lane) {
  Lanes<Lane, Register> lanes(whole);
  for (int count = lanes.kCount / 2; count != 0; count /= 2) {
    for (int i = 0; i < count; ++i) lanes.at[i] = lane(lanes.at[i], lanes.at[i + count]);
  }
  return lanes.at[0];
}

inline float Sum(__m512 whole) {
  return Reduce<float>(whole, [](float a, float b) { return a + b; });
}

inline int32_t Sum(__m512i whole) {  // modulo 2^32
  return static_cast<int32_t>(Reduce<uint32_t>(whole, [](uint32_t a, uint32_t b) { return a + b; }));
}

inline float Largest(__m512 whole) {
  return Reduce<float>(whole, [](float a, float b) { return a > b ? a : b; });
}

// As the current rounding mode says, or towards zero; INT32_MIN for what does not fit.
template <bool kToZero>
__m512i ToInt(__m512 from) {
  const Lanes<float, __m512> old(from);
  Lanes<int32_t, __m512i> made(__m512i{});
  for (int i = 0; i < made.kCount; ++i) {
    const __m128 lane = _mm_set_ss(old.at[i]);
    made.at[i] = kToZero ? _mm_cvttss_si32(lane) : _mm_cvtss_si32(lane);
  }
  return made.Whole();
}

inline __m512i ShiftRight(__m512i from, unsigned count) {  // the sign comes in from the left
  Lanes<int32_t, __m512i> lanes(from);
  for (int32_t& lane : lanes.at) lane >>= count < 32 ? count : 31;
  return lanes.Whole();
}

template <typename Lane, typename Register>
Register Gather(__m512i indices, const void* base, int scale) {
  const Lanes<int32_t, __m512i> at(indices);
  Lanes<Lane, Register> found(Register{});
  for (int i = 0; i < found.kCount; ++i) {
    std::memcpy(&found.at[i], static_cast<const char*>(base) + int64_t{at.at[i]} * scale, sizeof(Lane));
  }
  return found.Whole();
}

}  // namespace
}  // namespace avx512_emulation

// Macros, because the compiler has declared functions of these names, which it cannot compile without the instructions.
#undef _mm512_mask_loadu_ps
#define _mm512_mask_loadu_ps(old, mask, from) avx512_emulation::MaskLoad<float>(old, mask, from)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, from) avx512_emulation::MaskLoad<float>(_mm512_setzero_ps(), mask, from)
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(to, mask, whole) avx512_emulation::MaskStore<float>(to, mask, whole)
#undef _mm512_mask_loadu_epi8
#define _mm512_mask_loadu_epi8(old, mask, from) avx512_emulation::MaskLoad<int8_t>(old, mask, from)
#undef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8(mask, from) avx512_emulation::MaskLoad<int8_t>(_mm512_setzero_si512(), mask, from)
#undef _mm512_mask_storeu_epi8
#define _mm512_mask_storeu_epi8(to, mask, whole) avx512_emulation::MaskStore<int8_t>(to, mask, whole)
#undef _mm512_mask_loadu_epi16
#define _mm512_mask_loadu_epi16(old, mask, from) avx512_emulation::MaskLoad<int16_t>(old, mask, from)
#undef _mm512_maskz_loadu_epi16
#define _mm512_maskz_loadu_epi16(mask, from) avx512_emulation::MaskLoad<int16_t>(_mm512_setzero_si512(), mask, from)
#undef _mm512_mask_storeu_epi16
#define _mm512_mask_storeu_epi16(to, mask, whole) avx512_emulation::MaskStore<int16_t>(to, mask, whole)
#undef _mm512_mask_loadu_epi32
#define _mm512_mask_loadu_epi32(old, mask, from) avx512_emulation::MaskLoad<int32_t>(old, mask, from)
#undef _mm512_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi32(mask, from) avx512_emulation::MaskLoad<int32_t>(_mm512_setzero_si512(), mask, from)
#undef _mm512_mask_storeu_epi32
#define _mm512_mask_storeu_epi32(to, mask, whole) avx512_emulation::MaskStore<int32_t>(to, mask, whole)
#undef _mm256_maskz_loadu_ps
#define _mm256_maskz_loadu_ps(mask, from) avx512_emulation::MaskLoad<float>(_mm256_setzero_ps(), mask, from)
#undef _mm256_mask_storeu_ps
#define _mm256_mask_storeu_ps(to, mask, whole) avx512_emulation::MaskStore<float>(to, mask, whole)
#undef _mm256_maskz_loadu_epi8
#define _mm256_maskz_loadu_epi8(mask, from) avx512_emulation::MaskLoad<int8_t>(_mm256_setzero_si256(), mask, from)
#undef _mm256_mask_storeu_epi8
#define _mm256_mask_storeu_epi8(to, mask, whole) avx512_emulation::MaskStore<int8_t>(to, mask, whole)
#undef _mm_maskz_loadu_epi8
#define _mm_maskz_loadu_epi8(mask, from) avx512_emulation::MaskLoad<int8_t>(_mm_setzero_si128(), mask, from)
#undef _mm_mask_storeu_epi8
#define _mm_mask_storeu_epi8(to, mask, whole) avx512_emulation::MaskStore<int8_t>(to, mask, whole)
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32(whole) avx512_emulation::Convert<int32_t, __m512i, uint8_t>(whole)
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32(whole) avx512_emulation::Convert<int32_t, __m512i, int8_t>(whole)
#undef _mm512_cvtepu8_epi16
#define _mm512_cvtepu8_epi16(whole) avx512_emulation::Convert<int16_t, __m512i, uint8_t>(whole)
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(whole) avx512_emulation::Convert<int32_t, __m512i, uint16_t>(whole)
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32(whole) avx512_emulation::Convert<int32_t, __m512i, int16_t>(whole)
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(whole) avx512_emulation::Convert<float, __m512, int32_t>(whole)
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(whole) avx512_emulation::Convert<int8_t, __m128i, int32_t>(whole)
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(whole) avx512_emulation::Convert<int16_t, __m256i, int32_t>(whole)
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32(whole) avx512_emulation::ToInt<false>(whole)
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32(whole) avx512_emulation::ToInt<true>(whole)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(whole, count) avx512_emulation::ShiftRight(whole, count)
#undef _mm512_mask3_fmadd_ps
#define _mm512_mask3_fmadd_ps(a, b, c, mask) _mm512_mask_mov_ps(c, mask, _mm512_fmadd_ps(a, b, c))
#undef _mm512_reduce_add_ps
#define _mm512_reduce_add_ps(whole) avx512_emulation::Sum(whole)
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps(whole) avx512_emulation::Largest(whole)
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32(whole) avx512_emulation::Sum(whole)
#undef _mm512_i32gather_ps
#define _mm512_i32gather_ps(at, base, scale) avx512_emulation::Gather<float, __m512>(at, base, scale)

#endif  // KERAS_PRUNE_TESTS_AVX512_EMULATION_H_
