// NEON (64-bit ARM): as AVX2, x is loaded lane by lane in windows of 256 columns; the weights of a codebook of up to 32
// values are looked up by the byte: 16 values are the 64 bytes that one `tbl` can choose from.
#include <arm_neon.h>

#include "sell16.h"

namespace keras_prune {
namespace {

constexpr double kMostSlotsPerWeight = 2.5;  // AVX2's, whose loads are the same

// table[bytes[0]], table[bytes[1]], table[bytes[2]], table[bytes[3]].
inline float32x4_t LoadLanes(const float* table, const uint8_t* bytes) {
  float32x4_t lanes = vld1q_dup_f32(table + bytes[0]);
  lanes = vld1q_lane_f32(table + bytes[1], lanes, 1);
  lanes = vld1q_lane_f32(table + bytes[2], lanes, 2);
  return vld1q_lane_f32(table + bytes[3], lanes, 3);
}

// A step's codes of 4 + kHighBits bits.
template <int kHighBits>
inline uint8x16_t LoadCodes(const Sell16Layout& w, size_t pair, int step) {
  const uint8x16_t both = vld1q_u8(w.codes + pair * kLanes);
  uint8x16_t codes = step == 0 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4);
  const int32_t numbers[4] = {4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3};  // of four slots, see HighBit
  for (int bit = 0; bit < kHighBits; ++bit) {
    const uint32x4_t words = vshlq_u32(vdupq_n_u32(w.high_bits[pair * kHighBits + bit]), vld1q_s32(numbers));
    const uint8x16_t low = vshrq_n_u8(vreinterpretq_u8_u32(words), 7);
    codes = vorrq_u8(codes, vshlq_u8(low, vdupq_n_s8(static_cast<int8_t>(4 + bit))));
  }
  return codes;
}

// Up to 16 * kTables values, one table or two, in registers; a pair's codes are nibbles, the first step's below, and
// of two tables fifth bits.
template <int kTables>
struct SmallCodebook {
  explicit SmallCodebook(const float* codebook) {
    for (int i = 0; i < 4 * kTables; ++i) {
      tables[i / 4].val[i % 4] = vreinterpretq_u8_f32(vld1q_f32(codebook + 4 * i));
    }
  }
  // Code c is at the bytes 4 c to 4 c + 3; where they are not in a table, `tbl` gives 0 and `tbx` what there was.
  float32x4_t LookUp(uint16x4_t codes) const {
    const uint32x4_t words = vmlaq_n_u32(vdupq_n_u32(0x03020100), vmovl_u16(codes), 0x04040404);
    const uint8x16_t bytes = vreinterpretq_u8_u32(words);
    uint8x16_t found = vqtbl4q_u8(tables[0], bytes);
    if constexpr (kTables == 2) found = vqtbx4q_u8(found, tables[1], vsubq_u8(bytes, vdupq_n_u8(64)));
    return vreinterpretq_f32_u8(found);
  }
  void Load(const Sell16Layout& w, size_t pair, int step, float32x4_t* weights) const {
    const uint8x16_t codes = LoadCodes<kTables - 1>(w, pair, step);
    const uint16x8_t low = vmovl_u8(vget_low_u8(codes)), high = vmovl_u8(vget_high_u8(codes));
    weights[0] = LookUp(vget_low_u16(low));
    weights[1] = LookUp(vget_high_u16(low));
    weights[2] = LookUp(vget_low_u16(high));
    weights[3] = LookUp(vget_high_u16(high));
  }
  uint8x16x4_t tables[kTables];
};

template <bool kSixBits>
struct LargeCodebook {
  explicit LargeCodebook(const float* codebook) : values(codebook) {}
  void Load(const Sell16Layout& w, size_t pair, int step, float32x4_t* weights) const {
    const uint8_t* codes = w.codes + pair * kPairSlots + step * kLanes;
    uint8_t of_six_bits[kLanes];
    if constexpr (kSixBits) vst1q_u8(of_six_bits, LoadCodes<2>(w, pair, step)), codes = of_six_bits;
    for (int quarter = 0; quarter < 4; ++quarter) weights[quarter] = LoadLanes(values, codes + 4 * quarter);
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
    float32x4_t sums[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    const float* base = x;
    for (size_t pair = w.first_group[slice]; pair < w.first_group[slice + 1]; ++pair) {
      for (int step = 0; step < 2; ++step) {
        const uint8_t* columns = w.columns + pair * kPairSlots + step * kLanes;
        float32x4_t weights[4];
        codebook.Load(w, pair, step, weights);
        base += size_t{w.moves[2 * pair + step]} * kBaseAlign;
        for (int quarter = 0; quarter < 4; ++quarter) {
          const uint32x4_t bits = vreinterpretq_u32_f32(weights[quarter]);
          const uint32x4_t kept = vtstq_u32(bits, bits);  // a filler's x may be a NaN
          const uint32x4_t lanes = vandq_u32(kept, vreinterpretq_u32_f32(LoadLanes(base, columns + 4 * quarter)));
          sums[quarter] = vfmaq_f32(sums[quarter], vreinterpretq_f32_u32(lanes), weights[quarter]);
        }
      }
    }
    float values[kLanes];
    for (int quarter = 0; quarter < 4; ++quarter) vst1q_f32(values + 4 * quarter, sums[quarter]);
    StoreSlice(w, slice, values, out, y);
  }
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  for (size_t left = rows.count; left != 0; --left, x += rows.stride, y += rows.y_stride) {
    const Range slices = {first, end};  // loading the lanes is the work: rows of x have nothing to share
    w.codebook_size <= 16   ? ForwardRow<SmallCodebook<1>>(w, x, rows, y, slices)
    : w.codebook_size <= 32 ? ForwardRow<SmallCodebook<2>>(w, x, rows, y, slices)
    : w.shape.code_bits == 6 ? ForwardRow<LargeCodebook<true>>(w, x, rows, y, slices)
                             : ForwardRow<LargeCodebook<false>>(w, x, rows, y, slices);
  }
}

Status Make(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  return MakeSell16(packed, kWidestWindow, kMostSlotsPerWeight, kernel, out);
}

}  // namespace

const FcKernel kFcNeon = {"f32_fc_sell16__neon", Isa::kNeon, Input::kRows, 0, Make, Forward, Sell16Split,
                          Sell16Backward};

}  // namespace keras_prune
