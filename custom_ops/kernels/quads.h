// The compute layout of the vector kernels on int8 activations: sliced ELL whose lanes take four weights at a time.
//
// A slice is `lanes` rows, a 32-bit lane of a register each, walking the columns together. Its steps have a base column
// and four slots a lane: columns in the *window* [base, base + window) and weights, or fillers (weight 0). The window's
// x is in registers, where a look-up of bytes (pshufb, vpermb, tbl) finds the slots' values, and the products of a
// lane's four slots are summed in the lane. Lanes run ahead of the others as far as the window goes, and rows are
// sorted by length, so that few slots are fillers.
//
// Density 4 %: .55 of the slots hold a weight with 8 lanes and windows of 64 columns, .74 with 128. At 9 %: .78 and
// .89.
#ifndef KERAS_PRUNE_KERNELS_QUADS_H_
#define KERAS_PRUNE_KERNELS_QUADS_H_

#include "int8.h"
#include "row_cursor.h"

namespace keras_prune {

constexpr uint32_t kQuad = 4;
constexpr uint32_t kMostLanes = 16;
constexpr uint32_t kSampledSlices = 7;  // every seventh tells how many steps a window needs

// What a kernel wants.
struct QuadsShape {
  uint32_t lanes;      // 4, 8 or 16
  bool for_pshufb;     // of 8 lanes: bits 4, 5, 6 of a column are in bits 7, 6, 5, where pshufb and pblendvb want them
  uint32_t window;     // a power of two from 16 to 128
  uint32_t code_bits;  // 4, 5 or 6; 0: weights are not codes, but int8
  uint32_t low_bits;   // of a code in the plane of codes, 4 or (of codes of 4 bits) 2; the others stand above
};

// Steps come in pairs, the last of a slice filled up: with n = 4 * lanes the n columns of the first, those of the
// second, then a plane of n weights of the first and n of the second, or of n codes' low 4 bits, of the first step in
// the low half of each byte, or of low 2 bits, four in a byte: those of slots i, i + n / 2 of the first step, then of
// the second. The one or two bits above these stand in the column's byte: in bits 4 and 5 for pshufb, which does not
// look there, else above the column. With windows of 128 columns there is room for one there; the highest bits are a
// plane of their own, n of the first step and n of the second, see PlaceOfHighBit.
struct QuadsLayout : FcLayout {
  QuadsShape shape;
  alignas(kAlignment) int8_t table[64];  // weights by code, where they are coded
  uint32_t* first_pair;          // num_parts + 1
  uint32_t* row_of;              // num_parts * lanes; only the first `kept_rows` are rows
  uint8_t* moves;                // by step: how far the base moves before it; a slice begins at column 0
  uint8_t* slots;
};

// Makes layouts from the packed streams, as Sell16Builder does. Rows without weights are in no slice. Nothing is
// defined in the class: this header is compiled for several instruction sets.
class QuadsBuilder {
 public:
  explicit QuadsBuilder(const PackedView& packed);
  ~QuadsBuilder();
  QuadsBuilder(const QuadsBuilder&) = delete;
  QuadsBuilder& operator=(const QuadsBuilder&) = delete;

  Status Scan();
  // After Scan: what the rows of x, padded for Input::kInt8Rows, have room for.
  uint32_t LargestWindow() const;
  uint32_t LongestRow() const;
  // The forms of a window: 0 is the faster one, 1 takes fewer bytes. Codebooks of more than 64 values have form 0
  // alone.
  uint32_t NumForms() const;
  QuadsShape FormOf(const QuadsShape& shape, uint32_t form) const;
  // Pairs of steps, by counting those of every `stride`-th slice: exact for 1. They are the same for all forms.
  uint64_t CountPairs(const QuadsShape& shape, uint32_t stride) const;
  uint64_t NumBytes(const QuadsShape& shape, uint64_t num_pairs) const;
  Status Build(const QuadsShape& shape, const FcKernel* kernel, FcLayout** out) const;

 private:
  struct Lanes {
    uint32_t base;
    RowCursor at[kMostLanes];
  };
  uint32_t NumSlices(const QuadsShape& shape) const;
  void LoadSlice(const QuadsShape& shape, uint32_t slice, Lanes* lanes) const;
  bool MoveBase(const QuadsShape& shape, Lanes* lanes) const;
  template <typename Begin, typename Emit>
  uint64_t WalkSlice(const QuadsShape& shape, uint32_t slice, Begin&& begin, Emit&& emit) const;
  void FillSlices(const Int8Codebook& codebook, QuadsLayout* layout) const;
  uint64_t PlaceArrays(const QuadsShape& shape, uint64_t num_pairs, void* base, QuadsLayout* arrays) const;

  const PackedView packed_;
  RowCursor* rows_ = nullptr;  // those with kept weights, the longest first
  uint32_t num_rows_ = 0;
};

// The layout of the first of these that is lean, or of the smallest: both forms of shape.window, then of larger ones;
// of the largest alone where that is 0. The scalar kernel's where fillers would take too many bytes, or a row's sums
// could pass 32 bits.
Status MakeQuads(const PackedView& packed, QuadsShape shape, const FcKernel* kernel, FcLayout** out);

// A slice is a part; its work is its pairs of steps.
uint32_t QuadsSplit(const FcLayout* layout, uint32_t share, uint32_t shares);

// dx = dy * W, W as it is quantized.
void QuadsBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// Bits of a code above the plane of codes, and how many of them a column's byte has.
constexpr uint32_t HighBits(const QuadsShape& shape) {
  return shape.code_bits != 0 ? shape.code_bits - shape.low_bits : 0;
}
constexpr uint32_t BitsByColumn(const QuadsShape& shape) {
  return shape.window > 64 && HighBits(shape) > 1 ? 1 : HighBits(shape);
}

// Of a pair: where the plane of the highest bits begins, and the bytes of all.
constexpr uint32_t HighPlane(const QuadsShape& shape) {
  const uint32_t slots = shape.lanes * kQuad;
  return 2 * slots + (shape.code_bits == 0 ? 2 * slots : slots * shape.low_bits / 4);
}
constexpr uint32_t PairBytes(const QuadsShape& shape) {
  return HighPlane(shape) + (HighBits(shape) - BitsByColumn(shape)) * shape.lanes * kQuad / 4;
}

// What a layout may take: twice the scalar kernel's, for with few rows most slots are fillers; 512 bytes a lane more do
// not matter.
inline bool QuadsFit(const QuadsShape& shape, uint64_t num_pairs, uint32_t num_kept) {
  return num_pairs * PairBytes(shape) <= uint64_t{6} * num_kept + 512 * shape.lanes;
}

// Sums of a slice go to their rows of one batch row.
inline void StoreQuads(const QuadsLayout& w, uint32_t slice, const int32_t* sums, float scale, const RowBlock& out,
                       float* y) {
  const uint32_t* row_of = w.row_of + size_t{slice} * w.shape.lanes;
  const uint32_t left = w.kept_rows - slice * w.shape.lanes, count = left < w.shape.lanes ? left : w.shape.lanes;
  for (uint32_t lane = 0; lane < count; ++lane) {
    y[row_of[lane]] = Int8Result(static_cast<float>(sums[lane]), scale, out, row_of[lane]);
  }
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_QUADS_H_
