// What the NEON kernels on int8 activations share: 8 rows a slice, two registers of four; one `tbl` finds x in windows of
// 64 columns. `Sums` is what the instruction sets differ in: how products become the sums of rows.
#ifndef KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_
#define KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_

#include <arm_neon.h>

#include "quads.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// A step's weights, or those that its codes stand for.
struct StepWeights {
  int8x16_t halves[2];
};

template <typename Sums, int kBatch>
inline void TakeStep(const int8_t* at, size_t stride, const uint8_t* slots, const StepWeights& weights, Sums (*sums)[2]) {
  const uint8x16_t low = vld1q_u8(slots), high = vld1q_u8(slots + 16);
  for (int b = 0; b < kBatch; ++b) {
    int8x16x4_t window;
    for (int i = 0; i < 4; ++i) window.val[i] = vld1q_s8(at + b * stride + 16 * i);
    sums[b][0].Add(vqtbl4q_s8(window, low), weights.halves[0]);
    sums[b][1].Add(vqtbl4q_s8(window, high), weights.halves[1]);
  }
}

template <bool kCoded>
inline void LoadWeights(int8x16_t table, const uint8_t* pair, StepWeights* even, StepWeights* odd) {
  for (int half = 0; half < 2; ++half) {
    if constexpr (kCoded) {
      const uint8x16_t codes = vld1q_u8(pair + 64 + 16 * half);
      even->halves[half] = vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15)));
      odd->halves[half] = vqtbl1q_s8(table, vshrq_n_u8(codes, 4));
    } else {
      even->halves[half] = vreinterpretq_s8_u8(vld1q_u8(pair + 64 + 16 * half));
      odd->halves[half] = vreinterpretq_s8_u8(vld1q_u8(pair + 96 + 16 * half));
    }
  }
}

template <typename Sums, bool kCoded, int kBatch>
void ForwardTile(const QuadsLayout& w, const RowBlock& rows, size_t batch_row, uint32_t first, uint32_t end) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  const int8x16_t table = vld1q_s8(w.table);
  const uint8_t* moves = w.moves + size_t{w.first_pair[first]} * 2;
  const uint8_t* pair = w.slots + size_t{w.first_pair[first]} * PairBytes(w.shape);
  for (uint32_t slice = first; slice < end; ++slice) {
    Sums sums[kBatch][2];
    const int8_t* at = x;
    for (uint32_t left = w.first_pair[slice + 1] - w.first_pair[slice]; left != 0; --left) {
      StepWeights even, odd;
      LoadWeights<kCoded>(table, pair, &even, &odd);
      at += moves[0];
      TakeStep<Sums, kBatch>(at, rows.stride, pair, even, sums);
      at += moves[1];
      TakeStep<Sums, kBatch>(at, rows.stride, pair + 32, odd, sums);
      moves += 2;
      pair += kCoded ? 96 : 128;
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

template <typename Sums, bool kCoded>
void ForwardBatch(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) ForwardTile<Sums, kCoded, 4>(w, rows, row, first, end);
  for (; row < rows.count; ++row) ForwardTile<Sums, kCoded, 1>(w, rows, row, first, end);
}

template <typename Sums>
void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  w.shape.coded ? ForwardBatch<Sums, true>(w, rows, first, end) : ForwardBatch<Sums, false>(w, rows, first, end);
}

inline Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeQuads(packed, {8, 64, true, false, false}, kernel, out);
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_
