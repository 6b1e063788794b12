// What the NEON kernels on int8 activations share: 8 rows a slice, two registers of four; one `tbl` finds x in windows
// of 64 columns, a `tbx` more in windows of 128. Large layouts are tight, which takes ten instructions a step more for
// five sixths of the bytes, and have windows of 128 columns where few weights are kept: eight instructions a step more
// for three quarters of the steps (VGG-16's fc6, 4 % kept). None of this was timed.
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

// x of the slots. `tbl` gives 0 for bytes beyond its 64, `tbx` leaves what there was.
template <int kWindow>
inline int8x16_t LookUp(const int8x16x4_t* window, uint8x16_t slots) {
  int8x16_t x = vqtbl4q_s8(window[0], slots);
  if constexpr (kWindow == 128) x = vqtbx4q_s8(x, window[1], vsubq_u8(slots, vdupq_n_u8(64)));
  return x;
}

template <typename Sums, int kWindow, int kBatch>
inline void TakeStep(const int8_t* at, size_t stride, const Step& step, Sums (*sums)[2]) {
  for (int b = 0; b < kBatch; ++b) {
    int8x16x4_t window[kWindow / 64];
    for (int i = 0; i < kWindow / 16; ++i) window[i / 4].val[i % 4] = vld1q_s8(at + b * stride + 16 * i);
    for (int half = 0; half < 2; ++half) {
      sums[b][half].Add(LookUp<kWindow>(window, step.slots[half]), step.weights[half]);
    }
  }
}

// Weights by their codes.
template <int kCodeBits>
inline int8x16_t TakeWeights(const int8x16x4_t& table, uint8x16_t codes) {
  if constexpr (kCodeBits == 4) return vqtbl1q_s8(table.val[0], codes);
  if constexpr (kCodeBits == 5) return vqtbl2q_s8({{table.val[0], table.val[1]}}, codes);
  return vqtbl4q_s8(table, codes);
}

// Of codes, what stands in their plane: 16 slots are a half of a step.
template <int kLowBits>
inline uint8x16_t LoadLowBits(const uint8_t* plane, int step, int half) {
  if constexpr (kLowBits == 4) {
    const uint8x16_t codes = vld1q_u8(plane + 16 * half);
    return step == 0 ? vandq_u8(codes, vdupq_n_u8(15)) : vshrq_n_u8(codes, 4);
  }
  const uint8x16_t shifted = vshlq_u8(vld1q_u8(plane), vdupq_n_s8(static_cast<int8_t>(-4 * step - 2 * half)));
  return vandq_u8(shifted, vdupq_n_u8(3));
}

// Of the plane of highest bits: all bits of a byte of which the slot's is set.
inline uint8x16_t LoadHighest(const uint8_t* plane, int step, int half) {
  const uint8x16_t bits = vcombine_u8(vdup_n_u8(plane[4 * step + 2 * half]), vdup_n_u8(plane[4 * step + 2 * half + 1]));
  return vtstq_u8(bits, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)));
}

// The weights of half a step; takes the bits of codes out of `slots`.
template <int kWindow, int kCodeBits, int kLowBits>
inline int8x16_t LoadWeights(const int8x16x4_t& table, const uint8_t* pair, int step, int half, uint8x16_t* slots) {
  constexpr QuadsShape kShape = {8, false, kWindow, kCodeBits, kLowBits};
  constexpr uint32_t kHigh = HighBits(kShape), kByColumn = BitsByColumn(kShape);
  uint8x16_t codes = LoadLowBits<kLowBits>(pair + 64, step, half);
  if constexpr (kHigh != 0) {
    constexpr int kColumnBits = kWindow == 64 ? 6 : 7;
    constexpr uint8_t kBits = ((1 << kByColumn) - 1) << kLowBits;
    codes = vorrq_u8(codes, vandq_u8(vshrq_n_u8(*slots, kColumnBits - kLowBits), vdupq_n_u8(kBits)));
    *slots = vandq_u8(*slots, vdupq_n_u8(kWindow - 1));
  }
  if constexpr (kHigh > kByColumn) {
    const uint8x16_t highest = LoadHighest(pair + HighPlane(kShape), step, half);
    codes = vorrq_u8(codes, vandq_u8(highest, vdupq_n_u8(1 << (kCodeBits - 1))));
  }
  return TakeWeights<kCodeBits>(table, codes);
}

template <int kWindow, int kCodeBits, int kLowBits>
inline Step LoadStep(const int8x16x4_t& table, const uint8_t* pair, int step) {
  Step made;
  for (int half = 0; half < 2; ++half) {
    made.slots[half] = vld1q_u8(pair + 32 * step + 16 * half);
    if constexpr (kCodeBits == 0) {
      made.weights[half] = vreinterpretq_s8_u8(vld1q_u8(pair + 64 + 32 * step + 16 * half));
    } else {
      made.weights[half] = LoadWeights<kWindow, kCodeBits, kLowBits>(table, pair, step, half, made.slots + half);
    }
  }
  return made;
}

template <typename Sums, int kWindow, int kCodeBits, int kLowBits, int kBatch>
void ForwardTile(const QuadsLayout& w, const RowBlock& rows, size_t batch_row, uint32_t first, uint32_t end) {
  const auto* x = static_cast<const int8_t*>(rows.x) + batch_row * rows.stride;
  int8x16x4_t table;
  for (int i = 0; i < 4; ++i) table.val[i] = vld1q_s8(w.table + 16 * i);
  const uint8_t* moves = w.moves + size_t{w.first_pair[first]} * 2;
  const uint8_t* pair = w.slots + size_t{w.first_pair[first]} * PairBytes(w.shape);
  for (uint32_t slice = first; slice < end; ++slice) {
    Sums sums[kBatch][2];
    const int8_t* at = x;
    for (uint32_t left = w.first_pair[slice + 1] - w.first_pair[slice]; left != 0; --left) {
      for (int step = 0; step < 2; ++step) {
        at += moves[step];
        const Step slots = LoadStep<kWindow, kCodeBits, kLowBits>(table, pair, step);
        TakeStep<Sums, kWindow, kBatch>(at, rows.stride, slots, sums);
      }
      moves += 2;
      pair += PairBytes({8, false, kWindow, kCodeBits, kLowBits});
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

template <typename Sums, int kWindow, int kCodeBits, int kLowBits>
void ForwardBatch(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  size_t row = 0;
  for (; row + 4 <= rows.count; row += 4) {
    ForwardTile<Sums, kWindow, kCodeBits, kLowBits, 4>(w, rows, row, first, end);
  }
  for (; row < rows.count; ++row) ForwardTile<Sums, kWindow, kCodeBits, kLowBits, 1>(w, rows, row, first, end);
}

template <typename Sums, int kWindow>
void ForwardWindow(const QuadsLayout& w, const RowBlock& rows, uint32_t first, uint32_t end) {
  if (w.shape.code_bits == 0) return ForwardBatch<Sums, kWindow, 0, 4>(w, rows, first, end);
  if (w.shape.code_bits == 5) return ForwardBatch<Sums, kWindow, 5, 4>(w, rows, first, end);
  if (w.shape.code_bits == 6) return ForwardBatch<Sums, kWindow, 6, 4>(w, rows, first, end);
  if (w.shape.low_bits == 2) return ForwardBatch<Sums, kWindow, 4, 2>(w, rows, first, end);
  ForwardBatch<Sums, kWindow, 4, 4>(w, rows, first, end);
}

template <typename Sums>
void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  w.shape.window == 64 ? ForwardWindow<Sums, 64>(w, rows, first, end) : ForwardWindow<Sums, 128>(w, rows, first, end);
}

inline Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeQuads(packed, {8, false, 64, 0, 0}, kernel, out);
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_S8_FC_QUADS_NEON_H_
