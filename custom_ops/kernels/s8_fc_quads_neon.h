// What the NEON kernels on int8 activations share: 8 rows a slice, two registers of four; one `tbl` finds x in windows of
// 64 columns. Large layouts are tight: ten instructions a step more for five sixths of the bytes (not timed).
// `Sums` is what the instruction sets differ in: how products become the sums of rows.
#ifndef KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_
#define KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_

#include <arm_neon.h>

#include "quads.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// A step's slots, or its weights.
struct Step {
  uint8x16_t slots[2];
  int8x16_t weights[2];
};

template <typename Sums, int kBatch>
inline void TakeStep(const int8_t* at, size_t stride, const Step& step, Sums (*sums)[2]) {
  for (int b = 0; b < kBatch; ++b) {
    int8x16x4_t window;
    for (int i = 0; i < 4; ++i) window.val[i] = vld1q_s8(at + b * stride + 16 * i);
    for (int half = 0; half < 2; ++half) {
      sums[b][half].Add(vqtbl4q_s8(window, step.slots[half]), step.weights[half]);
    }
  }
}

// How a pair's weights stand in the layout.
enum class Weights { kInt8, kCodes, kTightCodes };

// Codes of a tight shape: bits 2 and 3 are those above a column's six, bits 0 and 1 the `quarter`th of the low bits.
template <int kQuarter>
inline int8x16_t TakeTightCodes(int8x16_t table, uint8x16_t low_bits, uint8x16_t* slots) {
  if constexpr (kQuarter != 0) low_bits = vshrq_n_u8(low_bits, 2 * kQuarter);
  const uint8x16_t codes = vorrq_u8(vandq_u8(low_bits, vdupq_n_u8(3)), vandq_u8(vshrq_n_u8(*slots, 4), vdupq_n_u8(12)));
  *slots = vandq_u8(*slots, vdupq_n_u8(63));
  return vqtbl1q_s8(table, codes);
}

template <Weights kWeights>
inline void LoadPair(int8x16_t table, const uint8_t* pair, Step* even, Step* odd) {
  for (int half = 0; half < 2; ++half) {
    even->slots[half] = vld1q_u8(pair + 16 * half);
    odd->slots[half] = vld1q_u8(pair + 32 + 16 * half);
    if constexpr (kWeights == Weights::kCodes) {
      const uint8x16_t codes = vld1q_u8(pair + 64 + 16 * half);
      even->weights[half] = vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15)));
      odd->weights[half] = vqtbl1q_s8(table, vshrq_n_u8(codes, 4));
    } else if constexpr (kWeights == Weights::kInt8) {
      even->weights[half] = vreinterpretq_s8_u8(vld1q_u8(pair + 64 + 16 * half));
      odd->weights[half] = vreinterpretq_s8_u8(vld1q_u8(pair + 96 + 16 * half));
    }
  }
  if constexpr (kWeights == Weights::kTightCodes) {
    const uint8x16_t low_bits = vld1q_u8(pair + 64);
    even->weights[0] = TakeTightCodes<0>(table, low_bits, even->slots);
    even->weights[1] = TakeTightCodes<1>(table, low_bits, even->slots + 1);
    odd->weights[0] = TakeTightCodes<2>(table, low_bits, odd->slots);
    odd->weights[1] = TakeTightCodes<3>(table, low_bits, odd->slots + 1);
  }
}

template <typename Sums, Weights kWeights, int kBatch>
void ForwardTile(const QuadsLayout& w, const RowBlock& rows, size_t batch_row, uint32_t first, uint32_t end) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  const int8x16_t table = vld1q_s8(w.table);
  const uint8_t* moves = w.moves + size_t{w.first_pair[first]} * 2;
  const uint8_t* pair = w.slots + size_t{w.first_pair[first]} * PairBytes(w.shape);
  for (uint32_t slice = first; slice < end; ++slice) {
    Sums sums[kBatch][2];
    const int8_t* at = x;
    for (uint32_t left = w.first_pair[slice + 1] - w.first_pair[slice]; left != 0; --left) {
      Step even, odd;
      LoadPair<kWeights>(table, pair, &even, &odd);
      at += moves[0];
      TakeStep<Sums, kBatch>(at, rows.stride, even, sums);
      at += moves[1];
      TakeStep<Sums, kBatch>(at, rows.stride, odd, sums);
      moves += 2;
      pair += PairBytes(w.shape);
    }
    for (int b = 0; b < kBatch; ++b) {
      int32_t values[8];
      vst1q_s32(values, sums[b][0].Rows());
      vst1q_s32(values + 4, sums[b][1].Rows());
      const float scale = rows.scales[batch_row + b] * w.w_scale;
      StoreQuads(w, slice, values, scale, rows, rows.y + (batch_row + b) * rows.y_stride);
    }
  }
}

template <typename Sums, Weights kWeights>
void ForwardBatch(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) ForwardTile<Sums, kWeights, 4>(w, rows, row, first, end);
  for (; row < rows.count; ++row) ForwardTile<Sums, kWeights, 1>(w, rows, row, first, end);
}

template <typename Sums>
void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  if (w.shape.tight) return ForwardBatch<Sums, Weights::kTightCodes>(w, rows, first, end);
  if (w.shape.coded) return ForwardBatch<Sums, Weights::kCodes>(w, rows, first, end);
  ForwardBatch<Sums, Weights::kInt8>(w, rows, first, end);
}

inline Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeQuads(packed, {8, 64, true, false, true}, kernel, out);
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_
