// AVX2: x is loaded lane by lane and put together; a window of 256 columns has hardly any fillers. Weights are looked
// up by bytes (pshufb) for the 32 slots of a pair of steps at once.
//
// Each slot takes 1.7 loads and about 3.9 instructions; 32 slots take 25 cycles of a Zen 4, whose limits are 18 cycles
// for so many loads and 21 for so many instructions. What was tried there, ns a kept weight, 16 values (LeNet fc1,
// AlexNet fc6, fc8, VGG fc6; 8 %, 9 %, 25 %, 4 % kept):
//   this                                                             .29   .30   .27   .35
//   with _mm_insert_ps, which the following have, too                .30   .32   .30   .35
//   all columns loaded by single bytes                               .30   .32   .30   .35
//   all columns loaded four at a time                                .33   .34   .32   .37
//   vbroadcastss and blends in place of insertps                     .31   .32   .33   .36
//   vgatherdps                                                       .55   .57   .54   .63
//   columns and codes interleaved, weights by vpermps                .32   .43   .30   .58
//   x in windows of 32 columns, looked up by vpermps                 .44   .46
//   x as four planes of bytes, 32 columns looked up by pshufb        .37   .27   .22   .47
// The last needs 1.2 to 3 slots a weight, and so 1.8 to 3.4 times the bytes of the packed entries.
#include <immintrin.h>
#include <string.h>

#include "sell16.h"

namespace keras_prune {
namespace {

// A slot costs half of what the scalar kernel takes for a weight, fillers included: with few rows most are fillers.
// 25088 columns, 10 % kept, batch 1, microseconds here and scalar: 1 row 7.5 and .9, 6 rows 7.8 and 5.5, 8 rows 7.8 and
// 7.4, 12 rows 7.1 and 9.9.
constexpr double kMostSlotsPerWeight = 2.5;
// About half a microsecond ahead: a tenth less time where the layout comes from the last level or memory (AlexNet
// fc6, VGG fc6), two hundredths more where it is nearer.
constexpr size_t kPrefetchBytes = 2048;

// Registers [k] of a pair have lanes 4 k to 4 k + 3 of the first step in the lower half, of the second in the upper
// one.
constexpr int kQuarters = 4;

// table[columns[0]], ..., table[columns[3]].
inline __m128 LoadFour(const float* table, const uint8_t* columns) {
  __m128 lanes = _mm_load_ss(table + columns[0]);  // GCC makes two instructions of a load and _mm_insert_ps
  lanes[1] = table[columns[1]];
  lanes[2] = table[columns[2]];
  lanes[3] = table[columns[3]];
  return lanes;
}

// The same with one load for the four columns. Half of the lanes this way and half the other take the least time.
inline __m128 LoadFourByWord(const float* table, const uint8_t* columns) {
  uint32_t word;
  memcpy(&word, columns, sizeof word);
  __m128 lanes = _mm_load_ss(table + (word & 0xFF));
  lanes[1] = table[word >> 8 & 0xFF];
  lanes[2] = table[word >> 16 & 0xFF];
  lanes[3] = table[word >> 24];
  return lanes;
}

// Byte i of 16 floats in register i, twice.
inline void LoadPlanes(const float* floats, __m256i* planes) {
  const __m128i by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m128i four[4];
  for (int i = 0; i < 4; ++i) four[i] = _mm_shuffle_epi8(_mm_castps_si128(_mm_loadu_ps(floats + 4 * i)), by_byte);
  const __m128i low01 = _mm_unpacklo_epi32(four[0], four[1]), low23 = _mm_unpacklo_epi32(four[2], four[3]);
  const __m128i high01 = _mm_unpackhi_epi32(four[0], four[1]), high23 = _mm_unpackhi_epi32(four[2], four[3]);
  planes[0] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(low01, low23));
  planes[1] = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(low01, low23));
  planes[2] = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(high01, high23));
  planes[3] = _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(high01, high23));
}

// The 32 floats whose bytes are in these planes.
inline void JoinPlanes(const __m256i* planes, __m256* floats) {
  const __m256i low01 = _mm256_unpacklo_epi8(planes[0], planes[1]);
  const __m256i low23 = _mm256_unpacklo_epi8(planes[2], planes[3]);
  const __m256i high01 = _mm256_unpackhi_epi8(planes[0], planes[1]);
  const __m256i high23 = _mm256_unpackhi_epi8(planes[2], planes[3]);
  floats[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, low23));
  floats[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, low23));
  floats[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(high01, high23));
  floats[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(high01, high23));
}

// Up to 16 * kTables values, looked up by pshufb, which gives 0 for bytes above 127. So codes less 16 t find nothing in
// table t where they are below; where they are above, table t + 1 is found too, which is stored xor table t.
template <int kTables, bool kBytes = (kTables > 2)>
struct PlanesCodebook {
  explicit PlanesCodebook(const float* codebook) {
    for (int t = 0; t < kTables; ++t) LoadPlanes(codebook + 16 * t, tables[t]);
    for (int t = kTables - 1; t > 0; --t) {
      for (int i = 0; i < 4; ++i) tables[t][i] = _mm256_xor_si256(tables[t][i], tables[t - 1][i]);
    }
  }
  static __m256i LoadCodes(const Sell16Layout& w, size_t pair) {
    if constexpr (kBytes) return _mm256_load_si256(reinterpret_cast<const __m256i*>(w.codes) + pair);
    const __m128i both = _mm_load_si128(reinterpret_cast<const __m128i*>(w.codes) + pair);
    __m256i codes = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(both, 4), both), _mm256_set1_epi8(15));
    if constexpr (kTables == 4) {
      const __m256i fifth = _mm256_srli_epi16(HighBits(w.high_bits[2 * pair]), 3);
      const __m256i sixth = _mm256_srli_epi16(HighBits(w.high_bits[2 * pair + 1]), 2);
      codes = _mm256_or_si256(codes, _mm256_and_si256(fifth, _mm256_set1_epi8(16)));
      codes = _mm256_or_si256(codes, _mm256_and_si256(sixth, _mm256_set1_epi8(32)));
    }
    return codes;
  }
  // A word's bits at the tops of the slots' bytes.
  static __m256i HighBits(uint32_t word) {
    return _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(word)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  // What finds in table t what is there: of two tables the codes' low 4 bits, above 127 where the fifth is not set.
  static __m256i CodesForTable(const Sell16Layout& w, size_t pair, __m256i codes) {
    if constexpr (kTables > 2) return _mm256_sub_epi8(codes, _mm256_set1_epi8(16));
    return _mm256_or_si256(codes, _mm256_andnot_si256(HighBits(w.high_bits[pair]), _mm256_set1_epi8(-128)));
  }
  void Load(const Sell16Layout& w, size_t pair, __m256* weights) const {
    __m256i codes = LoadCodes(w, pair), planes[4];
    for (int i = 0; i < 4; ++i) planes[i] = _mm256_shuffle_epi8(tables[0][i], codes);
    for (int t = 1; t < kTables; ++t) {
      codes = CodesForTable(w, pair, codes);
      for (int i = 0; i < 4; ++i) planes[i] = _mm256_xor_si256(planes[i], _mm256_shuffle_epi8(tables[t][i], codes));
    }
    JoinPlanes(planes, weights);
  }
  __m256i tables[kTables][4];
};

// More values: loaded as x.
struct LargeCodebook {
  explicit LargeCodebook(const float* codebook) : values(codebook) {}
  void Load(const Sell16Layout& w, size_t pair, __m256* weights) const {
    const uint8_t* codes = w.codes + pair * kPairSlots;
    for (int k = 0; k < kQuarters; ++k) {
      weights[k] = _mm256_set_m128(LoadFour(values, codes + kLanes + 4 * k), LoadFourByWord(values, codes + 4 * k));
    }
  }
  const float* values;
};

struct Range {
  uint32_t first, end;
};

template <typename Codebook>
void ForwardRow(const Sell16Layout& w, const float* x, const RowBlock& out, float* y, Range slices) {
  const Codebook codebook(w.codebook);
  for (uint32_t slice = slices.first; slice < slices.end; ++slice) {
    __m256 sums[kQuarters] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    const float* second = x;
    for (size_t pair = w.first_group[slice]; pair < w.first_group[slice + 1]; ++pair) {
      const uint8_t* columns = w.columns + pair * kPairSlots;
      _mm_prefetch(reinterpret_cast<const char*>(columns + kPrefetchBytes), _MM_HINT_T0);
      const float* first = second + size_t{w.moves[2 * pair]} * kBaseAlign;
      second = first + size_t{w.moves[2 * pair + 1]} * kBaseAlign;
      __m256 weights[kQuarters];
      codebook.Load(w, pair, weights);
      for (int k = 0; k < kQuarters; ++k) {
        const __m256 lanes = _mm256_set_m128(LoadFour(second, columns + kLanes + 4 * k),
                                             LoadFourByWord(first, columns + 4 * k));
        const __m256i filler = _mm256_cmpeq_epi32(_mm256_castps_si256(weights[k]), _mm256_setzero_si256());
        sums[k] = _mm256_fmadd_ps(_mm256_andnot_ps(_mm256_castsi256_ps(filler), lanes), weights[k], sums[k]);
      }
    }
    alignas(16) float values[kLanes];
    for (int k = 0; k < kQuarters; ++k) {
      _mm_store_ps(values + 4 * k, _mm_add_ps(_mm256_castps256_ps128(sums[k]), _mm256_extractf128_ps(sums[k], 1)));
    }
    StoreSlice(w, slice, values, out, y);
  }
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const auto forward = w.codebook_size <= 16   ? ForwardRow<PlanesCodebook<1>>
                       : w.codebook_size <= 32 ? ForwardRow<PlanesCodebook<2>>
                       : w.shape.code_bits == 6 ? ForwardRow<PlanesCodebook<4, false>>
                       : w.codebook_size <= 64 ? ForwardRow<PlanesCodebook<4>>
                                               : ForwardRow<LargeCodebook>;
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;  // loading the lanes is the work: rows of x have nothing to share
  for (size_t left = rows.count; left != 0; --left, x += rows.stride, y += rows.y_stride) {
    forward(w, x, rows, y, {first, end});
  }
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeSell16(packed, kWidestWindow, kMostSlotsPerWeight, kernel, out);
}

}  // namespace

const FcKernel kFcAvx2 = {"f32_fc_sell16__avx2", Isa::kAvx2, Input::kRows, 0, Make, Forward, Sell16Split,
                          Sell16Backward};

}  // namespace keras_prune
