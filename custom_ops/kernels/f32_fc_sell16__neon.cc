// NEON (64-bit ARM): as AVX2, x is loaded lane by lane in windows of 256 columns; the weights of a codebook of up to 16
// values are looked up by the byte, because these are the 64 bytes that one `tbl` can choose from.
#include <arm_neon.h>

#include "sell16.h"

namespace keras_prune {
namespace {

constexpr uint32_t kWindow = 256;             // all that a slot's low byte can say
constexpr double kMostSlotsPerWeight = 2.5;  // AVX2's, whose loads are the same

// table[bytes[0]], table[bytes[2]], table[bytes[4]], table[bytes[6]].
inline float32x4_t LoadLanes(const float* table, const uint8_t* bytes) {
  float32x4_t lanes = vld1q_dup_f32(table + bytes[0]);
  lanes = vld1q_lane_f32(table + bytes[2], lanes, 1);
  lanes = vld1q_lane_f32(table + bytes[4], lanes, 2);
  return vld1q_lane_f32(table + bytes[6], lanes, 3);
}

// The codebook's first 16 values, in registers.
struct SmallCodebook {
  explicit SmallCodebook(const float* codebook) {
    for (int i = 0; i < 4; ++i) table.val[i] = vreinterpretq_u8_f32(vld1q_f32(codebook + 4 * i));
  }
  // Code c is at the bytes 4 c to 4 c + 3.
  float32x4_t Load(const uint8_t*, uint32x4_t codes) const {
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100), codes, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)));
  }
  uint8x16x4_t table;
};

struct LargeCodebook {
  explicit LargeCodebook(const float* codebook) : values(codebook) {}
  float32x4_t Load(const uint8_t* slots, uint32x4_t) const { return LoadLanes(values, slots + 1); }
  const float* values;
};

struct Range {
  uint32_t first, end;
};

// Sums of a quarter of a slice go to their rows.
inline void StoreLanes(const Sell16Layout& w, size_t first_lane, float32x4_t sums, const RowBlock& out, float* y) {
  float values[4];
  vst1q_f32(values, sums);
  for (size_t lane = 0; lane < 4 && first_lane + lane < w.kept_rows; ++lane) {
    const uint32_t row = w.row_of[first_lane + lane];
    float v = values[lane] + (out.bias != nullptr ? out.bias[row] : 0.0f);
    v = v < out.low ? out.low : v;
    y[row] = v > out.high ? out.high : v;
  }
}

template <typename Codebook>
void ForwardRow(const Sell16Layout& w, const float* x, const RowBlock& out, float* y, Range slices) {
  const Codebook codebook(w.codebook);
  for (uint32_t slice = slices.first; slice < slices.end; ++slice) {
    float32x4_t sums[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (uint32_t step = w.first_step[slice]; step < w.first_step[slice + 1]; ++step) {
      const uint16_t* slots = w.slots + size_t{step} * kLanes;
      const float* at = x + w.bases[step];
      for (int quarter = 0; quarter < 4; ++quarter) {
        const auto* four = reinterpret_cast<const uint8_t*>(slots + 4 * quarter);
        const uint32x4_t codes = vmovl_u16(vshr_n_u16(vld1_u16(slots + 4 * quarter), 8));
        const uint32x4_t kept = vtstq_u32(codes, codes);  // a filler's x may be a NaN
        const uint32x4_t lanes = vandq_u32(kept, vreinterpretq_u32_f32(LoadLanes(at, four)));
        sums[quarter] = vfmaq_f32(sums[quarter], vreinterpretq_f32_u32(lanes), codebook.Load(four, codes));
      }
    }
    for (int quarter = 0; quarter < 4; ++quarter) {
      StoreLanes(w, size_t{slice} * kLanes + 4 * quarter, sums[quarter], out, y);
    }
  }
}

void Forward(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const auto* x = static_cast<const float*>(rows.x);
  float* y = rows.y;
  for (size_t left = rows.count; left != 0; --left, x += rows.stride, y += rows.y_stride) {
    const Range slices = {first, end};  // loading the lanes is the work: rows of x have nothing to share
    w.codebook_size <= 16 ? ForwardRow<SmallCodebook>(w, x, rows, y, slices)
                          : ForwardRow<LargeCodebook>(w, x, rows, y, slices);
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

const FcKernel kFcNeon = {"f32_fc_sell16__neon", Isa::kNeon, Input::kRows, 0, Make, Forward, Sell16Split,
                          Sell16Backward};

}  // namespace keras_prune
