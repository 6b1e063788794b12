// AVX2: the lanes of x are loaded one by one and put together; a window of 256 columns has hardly any fillers.
// Measured on one Zen 5 core: .20 ns a kept weight of LeNet's fc1; AVX-512's gather, twice as wide, takes .31 ns.
#include <immintrin.h>

#include "sell16.h"

namespace keras_prune {
namespace {

constexpr uint32_t kWindow = 256;  // all that a slot's low byte can say
// A slot costs half of what the scalar kernel takes for a weight, fillers included: with few rows most are fillers.
// 25088 columns, 10 % kept, batch 1, microseconds here and scalar: 1 row 7.5 and .9, 6 rows 7.8 and 5.5, 8 rows 7.8 and
// 7.4, 12 rows 7.1 and 9.9.
constexpr double kMostSlotsPerWeight = 2.5;

// table[bytes[0]], table[bytes[2]], ... for 8 lanes.
inline __m256 LoadLanes(const float* table, const uint8_t* bytes) {
  __m128 low = _mm_load_ss(table + bytes[0]), high = _mm_load_ss(table + bytes[8]);
  low = _mm_insert_ps(low, _mm_load_ss(table + bytes[2]), 0x10);
  high = _mm_insert_ps(high, _mm_load_ss(table + bytes[10]), 0x10);
  low = _mm_insert_ps(low, _mm_load_ss(table + bytes[4]), 0x20);
  high = _mm_insert_ps(high, _mm_load_ss(table + bytes[12]), 0x20);
  low = _mm_insert_ps(low, _mm_load_ss(table + bytes[6]), 0x30);
  high = _mm_insert_ps(high, _mm_load_ss(table + bytes[14]), 0x30);
  return _mm256_set_m128(high, low);
}

// The weights of 8 lanes: a codebook of up to 16 values is in two registers.
template <bool kSmallCodebook>
inline __m256 LoadWeights(const float* codebook, const uint8_t* slots, __m256i codes) {
  if constexpr (!kSmallCodebook) return LoadLanes(codebook, slots + 1);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(codebook), codes);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(codebook + 8), codes);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
}

struct Range {
  uint32_t first, end;
};

// Sums of half a slice go to their rows.
inline void StoreLanes(const Sell16Layout& w, size_t first_lane, __m256 sums, const RowBlock& out,
                       float* y) {
  alignas(32) float values[8];
  _mm256_store_ps(values, sums);
  for (size_t lane = 0; lane < 8 && first_lane + lane < w.kept_rows; ++lane) {
    const uint32_t row = w.row_of[first_lane + lane];
    float v = values[lane] + (out.bias != nullptr ? out.bias[row] : 0.0f);
    v = v < out.low ? out.low : v;
    y[row] = v > out.high ? out.high : v;
  }
}

template <bool kSmallCodebook>
void ForwardRow(const Sell16Layout& w, const float* x, const RowBlock& out, float* y, Range slices) {
  for (uint32_t slice = slices.first; slice < slices.end; ++slice) {
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t step = w.first_step[slice]; step < w.first_step[slice + 1]; ++step) {
      const auto* slots = reinterpret_cast<const uint8_t*>(w.slots + size_t{step} * kLanes);
      const float* at = x + w.bases[step];
      for (int half = 0; half < 2; ++half) {
        const uint8_t* eight = slots + 16 * half;
        const __m128i words = _mm_load_si128(reinterpret_cast<const __m128i*>(eight));
        const __m256i codes = _mm256_srli_epi32(_mm256_cvtepu16_epi32(words), 8);
        const __m256 filler = _mm256_castsi256_ps(_mm256_cmpeq_epi32(codes, _mm256_setzero_si256()));
        const __m256 weights = LoadWeights<kSmallCodebook>(w.codebook, eight, codes);
        sums[half] = _mm256_fmadd_ps(_mm256_andnot_ps(filler, LoadLanes(at, eight)), weights, sums[half]);
      }
    }
    for (int half = 0; half < 2; ++half) StoreLanes(w, size_t{slice} * kLanes + 8 * half, sums[half], out, y);
  }
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  for (size_t left = rows.count; left != 0; --left, x += rows.stride, y += rows.y_stride) {
    const Range slices = {first, end};  // loading the lanes is the work: rows of x have nothing to share
    w.codebook_size <= 16 ? ForwardRow<true>(w, x, rows, y, slices) : ForwardRow<false>(w, x, rows, y, slices);
  }
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  Sell16Builder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  const uint64_t steps = builder.CountSteps(kWindow);
  if (steps * kLanes > kMostSlotsPerWeight * packed.num_kept) return kFcScalar.make(packed, &kFcScalar, out);
  return builder.Build(kWindow, steps, kernel, out);
}

}  // namespace

const FcKernel kFcAvx2 = {"f32_fc_sell16__avx2", Isa::kAvx2, Input::kRows, 0, Make, Forward, Sell16Split, Sell16Backward};

}  // namespace keras_prune
