// AVX-512 with VBMI and VNNI, int8 activations: 16 rows a slice; vpermi2b finds x in windows of 128 columns, vpermb in
// windows of 64 where rows of x are not longer.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <string.h>

#include "quads.h"
#include "x86_intrinsics.h"

namespace keras_prune {
namespace {

constexpr uint32_t kLanes = 16;

template <int kWindow>
inline __m512i LookUp(const int8_t* at, __m512i slots) {
  const __m512i low = _mm512_loadu_si512(at);
  if constexpr (kWindow == 64) {
    return _mm512_permutexvar_epi8(slots, low);
  } else {
    return _mm512_permutex2var_epi8(low, slots, _mm512_loadu_si512(at + 64));
  }
}

// vpdpbusd multiplies unsigned by signed bytes: |w| by x with the sign of w.
template <int kWindow, int kBatch>
inline void TakeStep(const int8_t* at, size_t stride, __m512i slots, __m512i weights, __m512i* sums) {
  const __mmask64 negative = _mm512_movepi8_mask(weights);
  const __m512i magnitudes = _mm512_abs_epi8(weights);
  for (int b = 0; b < kBatch; ++b) {
    const __m512i x = LookUp<kWindow>(at + b * stride, slots);
    const __m512i with_sign = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
    sums[b] = _mm512_dpbusd_epi32(sums[b], magnitudes, with_sign);
  }
}

// Of the codes of a step, what stands in their plane.
template <int kLowBits, int kStep>
inline __m512i LoadLowBits(const uint8_t* plane) {
  if constexpr (kLowBits == 4) {
    const __m512i codes = _mm512_loadu_si512(plane), shifted = kStep == 0 ? codes : _mm512_srli_epi16(codes, 4);
    return _mm512_and_si512(shifted, _mm512_set1_epi8(15));
  }
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plane));
  const __m256i first = kStep == 0 ? half : _mm256_srli_epi16(half, 4), second = _mm256_srli_epi16(first, 2);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  return _mm512_and_si512(both, _mm512_set1_epi8(3));
}

// The weights of a step; look-ups ignore the bits above a column's.
template <int kWindow, int kCodeBits, int kLowBits, int kStep>
inline __m512i LoadWeights(__m512i table, const uint8_t* pair, __m512i slots) {
  if constexpr (kCodeBits == 0) {
    return _mm512_loadu_si512(pair + 128 + 64 * kStep);
  } else {
    constexpr QuadsShape kShape = {kLanes, false, kWindow, kCodeBits, kLowBits};
    constexpr uint32_t kHigh = HighBits(kShape), kByColumn = BitsByColumn(kShape);
    __m512i codes = LoadLowBits<kLowBits, kStep>(pair + 128);
    if constexpr (kHigh != 0) {
      const __m512i bits = _mm512_srli_epi16(slots, (kWindow == 64 ? 6 : 7) - kLowBits);
      codes = _mm512_or_si512(codes, _mm512_and_si512(bits, _mm512_set1_epi8(((1 << kByColumn) - 1) << kLowBits)));
    }
    if constexpr (kHigh > kByColumn) {
      __mmask64 highest;
      memcpy(&highest, pair + HighPlane(kShape) + 8 * kStep, sizeof highest);
      codes = _mm512_mask_add_epi8(codes, highest, codes, _mm512_set1_epi8(1 << (kCodeBits - 1)));
    }
    return _mm512_permutexvar_epi8(codes, table);
  }
}

template <int kWindow, int kCodeBits, int kLowBits, int kBatch>
void ForwardTile(const QuadsLayout& w, const RowBlock& rows, size_t batch_row, uint32_t first, uint32_t end) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  const __m512i table = _mm512_loadu_si512(w.table);
  const auto* moves = w.moves + size_t{w.first_pair[first]} * 2;
  const auto* pair = w.slots + size_t{w.first_pair[first]} * PairBytes(w.shape);
  for (uint32_t slice = first; slice < end; ++slice) {
    __m512i sums[2 * kBatch];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    const int8_t* at = x;
    for (uint32_t left = w.first_pair[slice + 1] - w.first_pair[slice]; left != 0; --left) {
      const __m512i even = _mm512_loadu_si512(pair), odd = _mm512_loadu_si512(pair + 64);
      at += moves[0];
      const __m512i weights = LoadWeights<kWindow, kCodeBits, kLowBits, 0>(table, pair, even);
      TakeStep<kWindow, kBatch>(at, rows.stride, even, weights, sums);
      at += moves[1];
      const __m512i odd_weights = LoadWeights<kWindow, kCodeBits, kLowBits, 1>(table, pair, odd);
      TakeStep<kWindow, kBatch>(at, rows.stride, odd, odd_weights, sums + kBatch);
      moves += 2;
      pair += PairBytes({kLanes, false, kWindow, kCodeBits, kLowBits});
    }
    for (int b = 0; b < kBatch; ++b) {
      alignas(64) int32_t values[kLanes];
      _mm512_store_si512(values, _mm512_add_epi32(sums[b], sums[b + kBatch]));
      const float scale = rows.scales[batch_row + b] * w.w_scale;
      StoreQuads(w, slice, values, scale, rows, rows.y + (batch_row + b) * rows.y_stride);
    }
  }
}

template <int kWindow, int kCodeBits, int kLowBits>
void ForwardBatch(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) ForwardTile<kWindow, kCodeBits, kLowBits, 4>(w, rows, row, first, end);
  for (; row < rows.count; ++row) ForwardTile<kWindow, kCodeBits, kLowBits, 1>(w, rows, row, first, end);
}

template <int kWindow>
void ForwardWindow(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  if (w.shape.code_bits == 0) return ForwardBatch<kWindow, 0, 4>(w, rows, first, end);
  if (w.shape.code_bits == 5) return ForwardBatch<kWindow, 5, 4>(w, rows, first, end);
  if (w.shape.code_bits == 6) return ForwardBatch<kWindow, 6, 4>(w, rows, first, end);
  if (w.shape.low_bits == 2) return ForwardBatch<kWindow, 4, 2>(w, rows, first, end);
  ForwardBatch<kWindow, 4, 4>(w, rows, first, end);
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  w.shape.window == 64 ? ForwardWindow<64>(w, rows, first, end) : ForwardWindow<128>(w, rows, first, end);
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeQuads(packed, {kLanes, false, 0, 0, 0}, kernel, out);
}

struct Quantizer {
  static size_t Largest(const float* x, size_t size, uint32_t* largest) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i most = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 16 <= size; i += 16) {
      most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
    }
    alignas(64) uint32_t lanes[16];
    _mm512_store_si512(lanes, most);
    for (uint32_t lane : lanes) *largest = lane > *largest ? lane : *largest;
    return i;
  }

  static size_t Quantize(const float* x, size_t size, float inverse, int8_t* values) {
    const __m512 factor = _mm512_set1_ps(inverse), high = _mm512_set1_ps(kMostInt8), low = _mm512_set1_ps(-kMostInt8);
    const __m512i half = _mm512_castps_si512(_mm512_set1_ps(0.5f)), sign = _mm512_set1_epi32(INT32_MIN);
    size_t i = 0;
    for (; i + 16 <= size; i += 16) {
      __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), factor);
      const __m512i signed_half = _mm512_or_si512(half, _mm512_and_si512(_mm512_castps_si512(v), sign));
      v = _mm512_max_ps(low, _mm512_min_ps(high, _mm512_add_ps(v, _mm512_castsi512_ps(signed_half))));
      const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i), bytes);
    }
    return i;
  }
};

}  // namespace

const FcKernel kFcS8Avx512Vbmi = {"s8_fc_quads__avx512vbmi", Isa::kAvx512Vbmi, Input::kInt8Rows, 0, Make, Forward,
                                  QuadsSplit, QuadsBackward, QuantizeBy<Quantizer>};

}  // namespace keras_prune
