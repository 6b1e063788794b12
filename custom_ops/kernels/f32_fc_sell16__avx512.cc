// AVX-512: x is read by register look-ups (vpermps, vpermi2ps) in windows of 32 or 64 columns, never gathered.
//
// Measured on one Zen 5 core when columns and codes stood together, in 16 bits, and not again since; batch 1,
// microseconds (784x300 at 6 % = LeNet fc1; 25088x4096 at 4 % = VGG fc6, with
// a last-level cache shared with other work, hence the ranges):
//                                          LeNet fc1   VGG fc6
//   vgatherdps, window 256                    4.7        1520
//   scalar loads and inserts, window 256      2.7         900
//   window 32, bases anywhere                 1.1       520-610
//   window 32, bases a multiple of 16          .9       460-720  (fewer split cache lines, more steps)
//   window 64, bases anywhere                 1.6       590-700
//   window 64, bases a multiple of 16         1.1       450-470  (half as many fillers to stream)
// A step of 32 columns takes .55 ns from the cache and one of 64 columns .92 ns, so 32 is faster down to about 1 %
// density, unless the slots come from memory: then fewer steps are faster. Masking the fillers is free.
//
// Triples were counted and not timed. Of GCC 12, instructions a step: 10.2 in pairs with a window of 32 columns, 14.2
// with one of 64, 16.7 in triples; on the one port that Intel's CPUs have for look-ups, widening loads and tests: 4.5,
// 6.5 and 5. Slots a kept weight with windows of 32 and 64 columns: 2.2 and 1.6 at 4 %, 1.6 and 1.3 at 9 %, 1.24 and
// 1.1 at 25 %. So against windows of 32 columns triples take 1.2, 1.3 and 1.45 times the instructions, .8, .9 and 1 times
// that port, and .62, .68 and .76 times the bytes: 1.45 to 1.6 times the entries in place of 1.9 to 2.6.
// Codebooks of 17 to 32, 64, 128 and 256 values: 22, 27, 40 and 55 instructions a step, on that port 5.7, 7.7, 10.7 and
// 15.7, with 1.46, 1.58, 1.71 and 1.83 bytes a slot. Where triples are above 1.6 times the entries, too, which is below
// about 4 %, AVX2's layouts stand in, of 1.3 to 1.5 times: 4.2 instructions a slot for 1.1 to 1.2 slots a weight, about
// one and a half times what triples would take for their 1.9 slots a weight at 3 %.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <string.h>

#include "lean.h"
#include "sell16.h"
#include "x86_intrinsics.h"

namespace keras_prune {
namespace {

// Larger layouts are limited by their bytes. Between AlexNet's fc6 (8 MB) and VGG's (12 MB) with windows of 32 columns,
// of which the times above are.
constexpr uint64_t kCachedBytes = uint64_t{11} << 20;
constexpr double kWideStepCost = 1.7;  // of a step with a window of 64, in steps with one of 32, from the cache
constexpr size_t kFirstCacheBytes = size_t{48} << 10;  // of most CPUs with AVX-512
// Fillers cost little time here, a tenth of the scalar kernel's weight, but as many bytes as weights: with few rows the
// layout would be larger than the dense matrix. So the scalar layout, 1.5 bytes a weight, stands in above 6 bytes.
constexpr double kMostSlotsPerWeight = 4.0;

// table[index] for 16 lanes, the table in kRegisters registers; bits of the index above the table's size are ignored.
template <int kRegisters>
inline __m512 LookUp(const __m512* table, __m512i index) {
  if constexpr (kRegisters == 1) {
    return _mm512_permutexvar_ps(index, table[0]);
  } else if constexpr (kRegisters == 2) {
    return _mm512_permutex2var_ps(table[0], index, table[1]);
  } else {
    const __mmask16 upper = _mm512_test_epi32_mask(index, _mm512_set1_epi32(kRegisters / 2 * 16));
    return _mm512_mask_blend_ps(upper, LookUp<kRegisters / 2>(table, index),
                                LookUp<kRegisters / 2>(table + kRegisters / 2, index));
  }
}

// Some batch rows and slices: what ForwardTile computes at once.
struct Task {
  const RowBlock* rows;
  float* y;
  uint32_t first_slice, end_slice;
};

// A word a slot with the one bit that is the slot's of a pair's word of fifth bits.
struct SlotBits {
  alignas(kAlignment) uint32_t words[kPairSlots];
};
constexpr SlotBits MakeSlotBits() {
  SlotBits bits = {};
  for (uint32_t slot = 0; slot < kPairSlots; ++slot) bits.words[slot] = 1u << HighBit(slot);
  return bits;
}
constexpr SlotBits kSlotBits = MakeSlotBits();

// A pair's codes, one step's after the other. Of codes of 4 bits the second's are above the first's: a look-up in 16
// values ignores the bits above. Codes of 5 bits have them in place of these.
template <int kTables>
struct PairCodes {
  PairCodes(const Sell16Layout& w, size_t pair) {
    const auto* codes = reinterpret_cast<const __m128i*>(w.codes) + (kTables <= 2 ? pair : 2 * pair);
    steps[0] = _mm512_cvtepu8_epi32(_mm_load_si128(codes));
    steps[1] = kTables <= 2 ? _mm512_srli_epi32(steps[0], 4) : _mm512_cvtepu8_epi32(_mm_load_si128(codes + 1));
    if constexpr (kTables == 2) {
      const __m512i word = _mm512_set1_epi32(static_cast<int>(w.high_bits[pair])), sixteen = _mm512_set1_epi32(16);
      for (uint32_t step = 0; step < 2; ++step) {
        const __mmask16 fifth = _mm512_test_epi32_mask(word, _mm512_load_si512(kSlotBits.words + step * kLanes));
        const __m512i low = _mm512_and_si512(steps[step], _mm512_set1_epi32(15));
        steps[step] = _mm512_mask_or_epi32(low, fifth, low, sixteen);
      }
    }
  }
  static constexpr int kMask = kTables == 1 ? 0xF : 0xFF;
  __m512i steps[2];
};

// The sums of a slice of kBatch batch rows, kChains of each. Inlined, so that they stay in registers till then.
template <int kBatch, int kChains>
[[gnu::always_inline]] inline void StoreSums(const Sell16Layout& w, uint32_t slice, __m512* sums, const Task& task) {
  for (int b = 0; b < kBatch; ++b) {
    for (int chain = 1; chain < kChains; ++chain) {
      sums[b * kChains] = _mm512_add_ps(sums[b * kChains], sums[b * kChains + chain]);
    }
    alignas(64) float values[kLanes];
    _mm512_store_ps(values, sums[b * kChains]);
    StoreSlice(w, slice, values, *task.rows, task.y + b * task.rows->y_stride);
  }
}

// sum + x * weights in the lanes `kept`; x from a window of kWindow columns.
template <int kWindow>
inline __m512 AddProducts(const float* at, __m512i column, __m512 weights, __mmask16 kept, __m512 sum) {
  __m512 window[kWindow / 16];
  for (int i = 0; i < kWindow / 16; ++i) window[i] = _mm512_loadu_ps(at + 16 * i);
  return _mm512_mask3_fmadd_ps(LookUp<kWindow / 16>(window, column), weights, sum, kept);
}

// kColumns / 16 registers of x, kTables of codebook; kBatch rows of x share what is decoded.
template <int kColumns, int kTables>
struct Pairs {
  static constexpr int kWindow = kColumns;

  template <int kBatch>
  static void Forward(const Sell16Layout& w, const float* x, size_t x_stride, const Task& task) {
    constexpr int kChains = kBatch == 1 ? 4 : 2;  // independent sums hide the latency of the addition
    __m512 codebook[kTables];
    for (int i = 0; i < kTables; ++i) codebook[i] = _mm512_loadu_ps(w.codebook + 16 * i);
    for (uint32_t slice = task.first_slice; slice < task.end_slice; ++slice) {
      __m512 sums[kBatch * kChains];
      for (__m512& sum : sums) sum = _mm512_setzero_ps();
      const float* base = x;
      const auto take_pair = [&](size_t pair, int chain) {
        const PairCodes<kTables> codes(w, pair);
        for (int step = 0; step < 2; ++step) {
          const uint8_t* columns = w.columns + pair * kPairSlots + step * kLanes;
          const __m512i column = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(columns)));
          const __m512i code = codes.steps[step];
          const __mmask16 kept = _mm512_test_epi32_mask(code, _mm512_set1_epi32(PairCodes<kTables>::kMask));
          const __m512 weights = LookUp<kTables>(codebook, code);
          base += w.moves[2 * pair + step];
          for (int b = 0; b < kBatch; ++b) {
            __m512& sum = sums[b * kChains + chain + step];
            sum = AddProducts<kWindow>(base + b * x_stride, column, weights, kept, sum);
          }
        }
      };
      size_t pair = w.first_group[slice];
      const size_t end = w.first_group[slice + 1];
      for (; end - pair >= kChains / 2; pair += kChains / 2) {
        for (int chain = 0; chain < kChains; chain += 2) take_pair(pair + chain / 2, chain);
      }
      for (; pair < end; ++pair) take_pair(pair, 0);
      StoreSums<kBatch, kChains>(w, slice, sums, task);
    }
  }
};

// A triple: its words, and the masks of the codes' bits above 4.
struct Triple {
  __m512i words;
  const uint16_t* masks;
};

// Three steps from a register: shifts in place of loads that widen bytes. A look-up ignores the bits above its index.
// The codebook is in 2^kHighBits registers.
template <int kHighBits>
struct Triples {
  static constexpr int kWindow = kTripleWindow, kTables = 1 << kHighBits;

  template <int kStep, int kBatch>
  static void Take(const Triple& triple, const __m512* codebook, size_t x_stride, const float* base, __m512* sums) {
    constexpr int kShift = kStep * kTripleSlotBits, kCode = kShift + kTripleColumnBits;
    const __m512i column = kShift == 0 ? triple.words : _mm512_srli_epi32(triple.words, kShift);
    __m512i code = _mm512_srli_epi32(triple.words, kCode);
    if constexpr (kHighBits != 0) code = _mm512_and_si512(code, _mm512_set1_epi32(15));
    for (int bit = 0; bit < kHighBits; ++bit) {
      const __mmask16 high = triple.masks[kStep * kHighBits + bit];
      code = _mm512_mask_or_epi32(code, high, code, _mm512_set1_epi32(16 << bit));
    }
    const __mmask16 kept = kHighBits != 0 ? _mm512_test_epi32_mask(code, code)
                                          : _mm512_test_epi32_mask(triple.words, _mm512_set1_epi32(15 << kCode));
    const __m512 weights = LookUp<kTables>(codebook, code);
    for (int b = 0; b < kBatch; ++b) {
      __m512& sum = sums[3 * b + kStep];
      sum = AddProducts<kWindow>(base + b * x_stride, column, weights, kept, sum);
    }
  }

  template <int kBatch>
  static void Forward(const Sell16Layout& w, const float* x, size_t x_stride, const Task& task) {
    size_t columns[kMoveToEnd + 1];  // by move
    for (size_t move = 0; move < kMoveToEnd; ++move) columns[move] = move * kBaseAlign;
    columns[kMoveToEnd] = MoveToEnd(w.cols);
    __m512 codebook[kTables];
    for (int i = 0; i < kTables; ++i) codebook[i] = _mm512_loadu_ps(w.codebook + 16 * i);
    for (uint32_t slice = task.first_slice; slice < task.end_slice; ++slice) {
      __m512 sums[3 * kBatch];
      for (__m512& sum : sums) sum = _mm512_setzero_ps();
      const float* base = x;
      for (size_t at = w.first_group[slice]; at < w.first_group[slice + 1]; ++at) {
        const Triple triple = {_mm512_load_si512(w.triples + at * kLanes), w.masks + at * 3 * kHighBits};
        const uint32_t moves = _mm512_movepi32_mask(triple.words);
        base += columns[moves & kMoveToEnd];
        Take<0, kBatch>(triple, codebook, x_stride, base, sums);
        base += columns[moves >> kTripleMoveBits & kMoveToEnd];
        Take<1, kBatch>(triple, codebook, x_stride, base, sums);
        base += columns[moves >> 2 * kTripleMoveBits];
        Take<2, kBatch>(triple, codebook, x_stride, base, sums);
      }
      StoreSums<kBatch, 3>(w, slice, sums, task);
    }
  }
};

// A window never passes the end of x, unless x is shorter: then a padded copy stands in.
template <typename Form, int kBatch>
void PadAndForward(const Sell16Layout& w, const float* x, size_t x_stride, const Task& task) {
  constexpr int kWindow = Form::kWindow;
  if (w.cols >= kWindow) return Form::template Forward<kBatch>(w, x, x_stride, task);
  alignas(64) float padded[kBatch * kWindow] = {};
  for (int b = 0; b < kBatch; ++b) memcpy(padded + b * kWindow, x + x_stride * b, w.cols * sizeof(float));
  Form::template Forward<kBatch>(w, padded, kWindow, task);
}

// Four rows at a time, unless one row of x fits in the first-level cache and four do not: AlexNet's fc6 (36 KB) runs
// at .07 ns a weight and row one by one, at .10 to .13 by fours; LeNet's fc1 (3 KB) at .07 and .048.
template <typename Form>
void ForwardBatch(const Sell16Layout& w, const RowBlock& rows, Task task) {
  const auto* x = static_cast<const float*>(rows.x);
  size_t batch = rows.count;
  const size_t row_bytes = w.cols * sizeof(float);
  const bool share = row_bytes > kFirstCacheBytes || 4 * row_bytes <= kFirstCacheBytes;
  for (; share && batch >= 4; batch -= 4, x += rows.stride * 4, task.y += rows.y_stride * 4) {
    PadAndForward<Form, 4>(w, x, rows.stride, task);
  }
  for (; batch != 0; --batch, x += rows.stride, task.y += rows.y_stride) {
    PadAndForward<Form, 1>(w, x, rows.stride, task);
  }
}

template <int kWindow>
void ForwardWindow(const Sell16Layout& w, const RowBlock& rows, const Task& task) {
  if (w.codebook_size <= 16) return ForwardBatch<Pairs<kWindow, 1>>(w, rows, task);
  if (w.codebook_size <= 32) return ForwardBatch<Pairs<kWindow, 2>>(w, rows, task);
  if (w.codebook_size <= 64) return ForwardBatch<Pairs<kWindow, 4>>(w, rows, task);
  if (w.codebook_size <= 128) return ForwardBatch<Pairs<kWindow, 8>>(w, rows, task);
  return ForwardBatch<Pairs<kWindow, 16>>(w, rows, task);
}

void ForwardTriples(const Sell16Layout& w, const RowBlock& rows, const Task& task) {
  switch (NumHighBits(w.shape)) {
    case 0: return ForwardBatch<Triples<0>>(w, rows, task);
    case 1: return ForwardBatch<Triples<1>>(w, rows, task);
    case 2: return ForwardBatch<Triples<2>>(w, rows, task);
    case 3: return ForwardBatch<Triples<3>>(w, rows, task);
    default: return ForwardBatch<Triples<4>>(w, rows, task);
  }
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const Task task = {&rows, rows.y, first, end};
  if (w.shape.triples) return ForwardTriples(w, rows, task);
  w.shape.window == 32 ? ForwardWindow<32>(w, rows, task) : ForwardWindow<64>(w, rows, task);
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  Sell16Builder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  constexpr Sell16Shape kNarrow = {32, false}, kWide = {64, false}, kTriples = {kTripleWindow, true};
  const uint64_t narrow = builder.CountGroups(kNarrow), wide = builder.CountGroups(kWide);
  const bool is_narrow = builder.NumBytes(kNarrow, narrow) <= kCachedBytes && narrow <= kWideStepCost * wide;
  const uint64_t pairs = is_narrow ? narrow : wide;
  const Sell16Shape& shape = is_narrow ? kNarrow : kWide;
  if (IsLean(packed, builder.NumBytes(shape, pairs))) {
    if (pairs * kPairSlots > kMostSlotsPerWeight * packed.num_kept) return kFcScalar.make(packed, &kFcScalar, out);
    return builder.Build(shape, pairs, kernel, out);
  }
  const uint64_t triples = builder.CountGroups(kTriples);
  if (IsLean(packed, builder.NumBytes(kTriples, triples))) return builder.Build(kTriples, triples, kernel, out);
  return kFcAvx2.make(packed, &kFcAvx2, out);
}

}  // namespace

const FcKernel kFcAvx512 = {"f32_fc_sell16__avx512", Isa::kAvx512, Input::kRows, 0, Make, Forward, Sell16Split,
                            Sell16Backward};

}  // namespace keras_prune
