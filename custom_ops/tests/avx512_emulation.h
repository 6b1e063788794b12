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

// Each lane as another type: widened or cut off.
template <typename ToLane, typename To, typename FromLane, typename From>
To Convert(From from) {
  const Lanes<FromLane, From> old(from);
  Lanes<ToLane, To> made(To{});
  static_assert(made.kCount == old.kCount, "as many lanes");
  for (int i = 0; i < made.kCount; ++i) made.at[i] = static_cast<ToLane>(old.at[i]);
  return made.Whole();
}

// Towards zero; INT32_MIN for what does not fit.
inline __m512i ToInt(__m512 from) {
  const Lanes<float, __m512> old(from);
  Lanes<int32_t, __m512i> made(__m512i{});
  for (int i = 0; i < made.kCount; ++i) made.at[i] = _mm_cvttss_si32(_mm_set_ss(old.at[i]));
  return made.Whole();
}

}  // namespace
}  // namespace avx512_emulation

// Macros, because the compiler has declared functions of these names, which it cannot compile without the instructions.
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32(whole) avx512_emulation::Convert<int32_t, __m512i, uint8_t>(whole)
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(whole) avx512_emulation::Convert<int8_t, __m128i, int32_t>(whole)
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32(whole) avx512_emulation::ToInt(whole)
#undef _mm512_mask3_fmadd_ps
#define _mm512_mask3_fmadd_ps(a, b, c, mask) _mm512_mask_mov_ps(c, mask, _mm512_fmadd_ps(a, b, c))

#endif  // KERAS_PRUNE_TESTS_AVX512_EMULATION_H_
