// The compute layout of the vector kernels on int8 activations: sliced ELL whose lanes take four weights at a time.
//
// A slice is `lanes` rows, a 32-bit lane of a register each, walking the columns together. Its steps have a base column
// and four slots a lane: columns in the *window* [base, base + window) and weights, or fillers (weight 0). The window's x
// is in registers, where a look-up of bytes (pshufb, vpermb, tbl) finds the slots' values, and the products of a lane's
// four slots are summed in the lane. Lanes run ahead of the others as far as the window goes, and rows are sorted by
// length, so that few slots are fillers.
//
// Density 4 %: .55 of the slots hold a weight with 8 lanes and windows of 64 columns, .74 with 128. At 9 %: .78 and .89.
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
  uint32_t lanes;    // 4, 8 or 16
  uint32_t window;   // a power of two from 16 to 128
  bool coded;        // weights as codes of 4 bits; else as int8
  bool for_pshufb;   // bits 4, 5, 6 of a slot's column are in bits 7, 6, 5, where pshufb and pblendvb want them
  bool tight;        // coded, with a window of at most 64: bits 2 and 3 of a code stand in a column's byte, in bits 4 and 5
                     // for pshufb, which does not look there, else in bits 6 and 7
};

// Steps come in pairs, the last of a slice filled up: with n = 4 * lanes the n columns of the first, those of the second,
// then n weights of the first and of the second, or n codes: of the first step in the low half of each byte. Of tight
// shapes only bits 0 and 1 of each code stand there, four in a byte: those of slots i, i + n / 2 of the first step, then of
// the second.
struct QuadsLayout : FcLayout {
  QuadsShape shape;
  alignas(16) int8_t table[16];  // weights by code, where they are coded
  uint32_t* first_pair;          // num_parts + 1
  uint32_t* row_of;              // num_parts * lanes; only the first `kept_rows` are rows
  uint8_t* moves;                // by step: how far the base moves before it; a slice begins at column 0
  uint8_t* slots;
};

// Makes layouts from the packed streams, as Sell16Builder does. Rows without weights are in no slice. Nothing is defined
// in the class: this header is compiled for several instruction sets.
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
  bool CanBeCoded() const;
  // Pairs of steps of every `stride`-th slice, times `stride`: all of them for 1.
  uint64_t CountPairs(const QuadsShape& shape, uint32_t stride) const;
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

// The layout of this shape, coded where it can be, tight where it may be and would not be lean otherwise, with the largest
// window where that is 0; the scalar kernel's where fillers would take too many bytes, or a row's sums could pass 32 bits.
Status MakeQuads(const PackedView& packed, QuadsShape shape, const FcKernel* kernel, FcLayout** out);

// Whether a layout of so many bytes is small, or at most 1.6 times the packed entries, a gap and a code each.
bool IsLean(const PackedView& packed, uint64_t num_bytes);

// A slice is a part; its work is its pairs of steps.
uint32_t QuadsSplit(const FcLayout* layout, uint32_t share, uint32_t shares);

// dx = dy * W, W as it is quantized.
void QuadsBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// Bytes of a pair of steps.
constexpr uint32_t PairBytes(const QuadsShape& shape) {
  const uint32_t slots = shape.lanes * kQuad;
  return 2 * slots + (shape.tight ? slots / 2 : shape.coded ? slots : 2 * slots);
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
