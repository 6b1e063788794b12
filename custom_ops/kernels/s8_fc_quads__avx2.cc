// AVX2, int8 activations: 8 rows a slice; pshufb finds x in windows of 32, 64 or 128 columns.
//
// Measured on a core of a shared Zen 4, batch 1, nanoseconds a kept weight (AlexNet's fc6 is 9216x4096 at 9 %, VGG's
// 25088x4096 at 4 %, AlexNet's fc7 4096x4096 at 9 %, its fc8 4096x1000 at 25 %), and bytes of layout a kept weight:
//                 fc8           fc7           fc6           VGG fc6
//   window  32    .053  1.8     .078  2.6     .096  2.6     .27     4.5
//   window  64    .069  1.7     .086  2.0     .086  2.0     .17-.20 2.8
//   window 128    .107  1.6     .114  1.7     .118  1.7     .16-.19 2.1
//   float32       .31   2.3     .34   2.4     .38   2.4     .45     2.6
// Look-ups bound what stays in a core's caches (25 instructions a step with a window of 64), bytes the rest. int8
// weights in place of codes of 4 bits would save 3 instructions a step: a twentieth of the time from the cache, for a
// third more bytes, which cost more from memory. Tight shapes, of which bits of codes stand in the columns' bytes, take 3
// instructions a step more and five sixths of the bytes: from the cache .116 to .134 of the time more. Codes of 5 and 6
// bits take 5 and 9 instructions a step more than int8 weights, and three quarters of the bytes. They keep large layers
// below 1.6 times the packed entries (a fifth to two fifths of the time more than int8 weights where 4 % is kept, less
// time where 25 % is).
#include <immintrin.h>
#include <string.h>

#include "lean.h"
#include "quads.h"

namespace keras_prune {
namespace {

constexpr uint32_t kLanes = 8;
constexpr uint64_t kCachedBytes = uint64_t{8} << 20;  // of one core's share of the last-level cache, about
constexpr double kNanosecondsPerByte = 0.06;
// Of a pair of steps, in nanoseconds: of bits of codes in columns' bytes, of codes of 5 and 6 bits, of a plane of bits.
constexpr double kTightCost = 0.5, kFiveBitsCost = 1.2, kSixBitsCost = 1.8, kPlaneCost = 0.3;
constexpr double kScalarCost = 0.7;       // of a weight, in nanoseconds

// x at 32 columns of the window. Bit 7 of a slot chooses between two halves of 32 columns (pshufb gives 0 where it is
// set), bit 6 between two of these pairs, and bit 5 between two of those.
template <int kWindow>
inline __m256i LookUp(const int8_t* at, __m256i slots, __m256i flipped, __m256i bit6, __m256i bit5) {
  if constexpr (kWindow == 32) {
    const auto load = [](const int8_t* p) {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    };
    return _mm256_or_si256(_mm256_shuffle_epi8(load(at), slots), _mm256_shuffle_epi8(load(at + 16), flipped));
  } else {
    const __m256i low = LookUp<kWindow / 2>(at, slots, flipped, bit6, bit5);
    const __m256i high = LookUp<kWindow / 2>(at + kWindow / 2, slots, flipped, bit6, bit5);
    return _mm256_blendv_epi8(low, high, kWindow == 64 ? bit6 : bit5);
  }
}

// Adds the products of one step to kBatch rows' sums. |w| times x with the sign of w: two products stay within 16 bits.
template <int kWindow, int kBatch>
inline void TakeStep(const int8_t* at, size_t stride, __m256i slots, __m256i weights, __m256i* sums) {
  const __m256i flipped = _mm256_xor_si256(slots, _mm256_set1_epi8(-128));
  const __m256i bit6 = _mm256_add_epi8(slots, slots), bit5 = _mm256_add_epi8(bit6, bit6);
  const __m256i magnitudes = _mm256_abs_epi8(weights);
  for (int b = 0; b < kBatch; ++b) {
    const __m256i x = LookUp<kWindow>(at + b * stride, slots, flipped, bit6, bit5);
    const __m256i twos = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, weights));
    sums[b] = _mm256_add_epi32(sums[b], _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
  }
}

// What a code stands for: up to 64 weights, 16 a register, twice.
struct Tables {
  __m256i of[4];
};

// Weights by a code's low 4 bits and, in the tops of bytes, its bits 4 and 5.
template <int kCodeBits>
inline __m256i TakeWeights(const Tables& tables, __m256i low, __m256i bit4, __m256i bit5) {
  if constexpr (kCodeBits == 4) {
    return _mm256_shuffle_epi8(tables.of[0], low);
  } else if constexpr (kCodeBits == 5) {
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(tables.of[0], low), _mm256_shuffle_epi8(tables.of[1], low), bit4);
  } else {
    const __m256i above = _mm256_blendv_epi8(_mm256_shuffle_epi8(tables.of[2], low),
                                             _mm256_shuffle_epi8(tables.of[3], low), bit4);
    return _mm256_blendv_epi8(TakeWeights<5>(tables, low, bit4, bit5), above, bit5);
  }
}

inline __m256i Load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// Of the codes of a pair of steps, what stands in their plane.
template <int kLowBits>
inline void LoadLowBits(const uint8_t* plane, __m256i* low) {
  if constexpr (kLowBits == 2) {
    const __m256i half = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(plane)));
    for (int i = 0; i < 2; ++i) {
      const __m256i shifts = _mm256_setr_epi64x(4 * i, 4 * i, 4 * i + 2, 4 * i + 2);
      low[i] = _mm256_and_si256(_mm256_srlv_epi64(half, shifts), _mm256_set1_epi8(3));
    }
  } else {
    const __m256i codes = Load(plane), mask = _mm256_set1_epi8(15);
    low[0] = _mm256_and_si256(codes, mask);
    low[1] = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
  }
}

// A step's bits of the plane of highest bits, at the tops of bytes.
inline __m256i LoadHighest(const uint8_t* plane) {
  int32_t word;
  memcpy(&word, plane, sizeof word);
  return _mm256_sllv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The weights of a pair of steps.
template <int kWindow, int kCodeBits, int kLowBits>
inline void LoadWeights(const uint8_t* pair, const Tables& tables, const __m256i* slots, __m256i* weights) {
  constexpr QuadsShape kShape = {kLanes, true, kWindow, kCodeBits, kLowBits};
  constexpr bool kPlane = HighBits(kShape) > BitsByColumn(kShape);
  __m256i low[2];
  LoadLowBits<kLowBits>(pair + 64, low);
  for (int i = 0; i < 2; ++i) {
    const __m256i highest = kPlane ? LoadHighest(pair + HighPlane(kShape) + 4 * i) : _mm256_setzero_si256();
    if constexpr (kLowBits == 2) {
      const __m256i bits = _mm256_and_si256(_mm256_srli_epi16(slots[i], 2), _mm256_set1_epi8(kPlane ? 4 : 12));
      low[i] = _mm256_or_si256(low[i], bits);
      const __m256i bit3 = _mm256_and_si256(_mm256_srli_epi16(highest, 4), _mm256_set1_epi8(8));
      if (kPlane) low[i] = _mm256_or_si256(low[i], bit3);
    }
    const __m256i bit4 = _mm256_slli_epi16(slots[i], 3);
    const __m256i bit5 = kPlane ? highest : _mm256_slli_epi16(slots[i], 2);
    weights[i] = TakeWeights<kCodeBits>(tables, low[i], bit4, bit5);
  }
}

template <int kWindow, int kCodeBits, int kLowBits, int kBatch>
void ForwardTile(const QuadsLayout& w, const RowBlock& rows, size_t batch_row, uint32_t first, uint32_t end) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  Tables tables;
  for (int i = 0; i < 4; ++i) {
    const __m128i some = _mm_load_si128(reinterpret_cast<const __m128i*>(w.table) + i);
    tables.of[i] = _mm256_broadcastsi128_si256(some);
  }
  constexpr QuadsShape kShape = {kLanes, true, kWindow, kCodeBits, kLowBits};
  const auto* moves = w.moves + size_t{w.first_pair[first]} * 2;
  const auto* pair = w.slots + size_t{w.first_pair[first]} * PairBytes(kShape);
  for (uint32_t slice = first; slice < end; ++slice) {
    __m256i sums[2 * kBatch];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    const int8_t* at = x;
    for (uint32_t left = w.first_pair[slice + 1] - w.first_pair[slice]; left != 0; --left) {
      __m256i slots[2], weights[2];
      for (int i = 0; i < 2; ++i) slots[i] = Load(pair + 32 * i);
      if constexpr (kCodeBits == 0) {
        for (int i = 0; i < 2; ++i) weights[i] = Load(pair + 64 + 32 * i);
      } else {
        LoadWeights<kWindow, kCodeBits, kLowBits>(pair, tables, slots, weights);
      }
      at += moves[0];
      TakeStep<kWindow, kBatch>(at, rows.stride, slots[0], weights[0], sums);
      at += moves[1];
      TakeStep<kWindow, kBatch>(at, rows.stride, slots[1], weights[1], sums + kBatch);
      moves += 2;
      pair += PairBytes(kShape);
    }
    for (int b = 0; b < kBatch; ++b) {
      alignas(32) int32_t values[kLanes];
      _mm256_store_si256(reinterpret_cast<__m256i*>(values), _mm256_add_epi32(sums[b], sums[b + kBatch]));
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
  switch (w.shape.window) {
    case 32: return ForwardWindow<32>(w, rows, first, end);
    case 64: return ForwardWindow<64>(w, rows, first, end);
    default: return ForwardWindow<128>(w, rows, first, end);
  }
}

// What a pair of steps takes more than with codes of 4 bits in a plane, in nanoseconds.
double FormCost(const QuadsShape& shape) {
  const double of_plane = HighBits(shape) > BitsByColumn(shape) ? kPlaneCost : 0.0;
  return of_plane + (shape.low_bits == 2 ? kTightCost : shape.code_bits == 5 ? kFiveBitsCost
                     : shape.code_bits == 6 ? kSixBitsCost : 0.0);
}

// What a pair of steps costs, in nanoseconds: the larger of what its look-ups take and what its bytes take, once the
// layout does not stay in a core's cache.
double PairCost(const QuadsShape& shape, uint64_t num_pairs) {
  const double look_ups = shape.window == 32 ? 3.0 : shape.window == 64 ? 4.2 : 6.5;
  const double steps = look_ups + FormCost(shape);
  const bool cached = num_pairs * PairBytes(shape) <= kCachedBytes;
  const double bytes = PairBytes(shape) * kNanosecondsPerByte;
  return cached || steps > bytes ? steps : bytes;
}

// A shape, what all of its pairs cost, and their bytes.
struct Choice {
  QuadsShape shape;
  double cost;
  uint64_t bytes;
  bool is_lean;
  bool BeatenBy(const Choice& other) const {
    if (shape.lanes == 0 || is_lean != other.is_lean) return shape.lanes == 0 || other.is_lean;
    return is_lean ? other.cost < cost : other.bytes < bytes;
  }
};

// The fastest of lean shapes, or the smallest where none is lean.
QuadsShape BestShape(const QuadsBuilder& builder, const PackedView& packed) {
  Choice best = {};
  QuadsShape shape = {kLanes, true, 32, 0, 0};
  for (; shape.window <= builder.LargestWindow(); shape.window *= 2) {
    const uint64_t pairs = builder.CountPairs(shape, kSampledSlices);
    for (uint32_t form = 0; form < builder.NumForms(); ++form) {
      const QuadsShape some = builder.FormOf(shape, form);
      const uint64_t bytes = builder.NumBytes(some, pairs);
      const Choice choice = {some, PairCost(some, pairs) * static_cast<double>(pairs), bytes, IsLean(packed, bytes)};
      if (!QuadsFit(some, pairs, packed.num_kept) || choice.cost >= kScalarCost * packed.num_kept) continue;
      if (best.BeatenBy(choice)) best = choice;
    }
  }
  return best.shape;
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  QuadsBuilder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  const QuadsShape best = BestShape(builder, packed);
  const bool is_scalar = best.lanes == 0 || builder.LongestRow() > kMostInt8Weights;
  return is_scalar ? kFcS8Scalar.make(packed, &kFcS8Scalar, out) : builder.Build(best, kernel, out);
}

struct Quantizer {
  static size_t Largest(const float* x, size_t size, uint32_t* largest) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i most = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitude));
    }
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), most);
    for (uint32_t lane : lanes) *largest = lane > *largest ? lane : *largest;
    return i;
  }

  static size_t Quantize(const float* x, size_t size, float inverse, int8_t* values) {
    const __m256 factor = _mm256_set1_ps(inverse), half = _mm256_set1_ps(0.5f), sign = _mm256_set1_ps(-0.0f);
    const __m256 high = _mm256_set1_ps(kMostInt8), low = _mm256_set1_ps(-kMostInt8);
    const auto eight = [&](const float* from) {
      __m256 v = _mm256_mul_ps(_mm256_loadu_ps(from), factor);
      v = _mm256_add_ps(v, _mm256_or_ps(half, _mm256_and_ps(v, sign)));
      return _mm256_cvttps_epi32(_mm256_max_ps(low, _mm256_min_ps(high, v)));
    };
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs works within halves
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
      const __m256i low_half = _mm256_packs_epi32(eight(x + i), eight(x + i + 8));
      const __m256i high_half = _mm256_packs_epi32(eight(x + i + 16), eight(x + i + 24));
      const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low_half, high_half), order);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + i), bytes);
    }
    return i;
  }
};

}  // namespace

const FcKernel kFcS8Avx2 = {"s8_fc_quads__avx2", Isa::kAvx2, Input::kInt8Rows, 0, Make, Forward, QuadsSplit,
                             QuadsBackward, QuantizeBy<Quantizer>};

}  // namespace keras_prune
