// The compute layout of the vector kernels on float32 rows: 16 rows a slice (sliced ELL), a lane each, walking the
// columns together.
//
// A slice is a list of steps. A step has a base column and 16 slots, one a lane: a column in the *window*
// [base, base + window) and a code, or a filler (code 0). A kernel reads the window's x once for all lanes: a window
// of 32 or 64 columns fits in AVX-512 registers, where a look-up replaces the gather. The builder lets a lane run
// ahead of the others as far as the window goes, so that few slots are fillers; rows are sorted by length for the
// same reason.
//
// Columns and codes stand in planes of their own: 8 bits and, of a codebook of up to 16 values, 4 bits; of up to 32
// values a plane of the fifth bits more; of larger ones 8 bits, or of up to 64 values planes of the fifth and sixth
// bits. With a window of 256 columns and 16 values a kept weight takes 1.6 to 1.8 bytes (densities of 25 % to 4 %), 1.3
// to 1.6 times its entry in the file.
//
// Windows of 64 columns need 6 bits a column. So a lane has three steps, columns and the low 4 bits of codes, in 30
// bits of a word, and in the last one, of the lanes together, three moves of 5 bits: 64 bytes for three steps, in place
// of 75. Each bit more of a code takes a mask of the lanes: 6 bytes.
#ifndef KERAS_PRUNE_KERNELS_SELL16_H_
#define KERAS_PRUNE_KERNELS_SELL16_H_

#include <cstddef>
#include <cstdint>

#include "kernel.h"
#include "row_cursor.h"

namespace keras_prune {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kPairSlots = 2 * kLanes;
constexpr uint32_t kBaseAlign = 16;  // bases are whole cache lines of x, except where the window would pass x's end
constexpr uint32_t kWidestWindow = 256;  // all that a column's byte can say

// Where a slot of a pair has the fifth bit of its code in a word, and the sixth in another. A shift of each 4 slots'
// copy of the word by their number brings the bits to the tops of their bytes, where pshufb wants them.
constexpr uint32_t HighBit(uint32_t slot) { return slot % 4 * 8 + 7 - slot / 4; }

// Of triples: a slot's column and, above it, its code's low 4 bits. Their bases are multiples of kBaseAlign, which
// moves count; the last move is the one to where the window ends with x. Functions are static: see the namespace at the
// end.
constexpr uint32_t kTripleWindow = 64, kTripleColumnBits = 6, kTripleSlotBits = 10, kTripleMoveBits = 5;
constexpr uint32_t kMoveToEnd = (1u << kTripleMoveBits) - 1;
static constexpr uint32_t MoveToEnd(uint32_t cols) {
  return cols > kTripleWindow ? (cols - kTripleWindow) % kBaseAlign : 0;
}

// Columns that one move counts. The widest window may pass x's end, as no kernel reads all of it: its bases are
// multiples of kBaseAlign.
static constexpr uint32_t MoveUnit(uint32_t window) { return window == kWidestWindow ? kBaseAlign : 1; }

// What a kernel wants. Triples have windows of kTripleWindow columns.
struct Sell16Shape {
  uint32_t window;         // 16 to 256 columns
  bool triples;
  uint32_t code_bits = 0;  // 4, 5, 6 or 8 of pairs, 4 to 8 of triples, enough for the codebook; 0: what is fastest
};

// Steps come in groups, pairs or triples; the last of a slice is filled up. A filler's column is inside x too, so that
// a kernel may load it, but must not use it. No code but 0 has a value of +0.0 in `codebook`: a kernel may tell fillers
// by their weight.
struct Sell16Layout : FcLayout {
  Sell16Shape shape;
  uint32_t* first_group;  // num_parts + 1
  void* row_of;          // num_parts * 16 of uint16_t, or uint32_t where there are more rows; RowAt reads it
  uint8_t* moves;        // two a pair: how many units the base moves before each step; a slice begins at column 0
  uint8_t* columns;      // 32 a pair: less the base
  uint8_t* codes;        // 32 a pair of 8 bits, else 16: the low 4 bits, of the first step in the low half of its bytes
  uint32_t* high_bits;   // of a pair, HighBit of one word for each bit of codes above 4
  uint32_t* triples;     // a word a lane, 16 a triple, in place of moves, columns and codes
  uint16_t* masks;       // of each step of a triple, a mask of the lanes for each bit of codes above 4
};

// Makes layouts from the packed streams: one pass finds where rows begin; then each slice reads its 16 rows at once.
// Rows without weights are in no slice. Nothing is defined in the class: this header is compiled for several
// instruction sets, and the linker would keep the function of any one of them.
class Sell16Builder {
 public:
  explicit Sell16Builder(const PackedView& packed);
  ~Sell16Builder();
  Sell16Builder(const Sell16Builder&) = delete;
  Sell16Builder& operator=(const Sell16Builder&) = delete;

  Status Scan();
  // All after Scan; num_groups is what CountGroups said of the shape, whatever its code_bits.
  uint64_t CountGroups(const Sell16Shape& shape) const;
  uint64_t NumBytes(const Sell16Shape& shape, uint64_t num_groups) const;
  Status Build(const Sell16Shape& shape, uint64_t num_groups, const FcKernel* kernel, FcLayout** out) const;

 private:
  uint32_t NumSlices() const;
  uint32_t CodeBits(const Sell16Shape& shape) const;
  void LoadSlice(uint32_t slice, RowCursor* lanes) const;
  template <typename Begin, typename Emit>
  uint64_t WalkSlice(uint32_t slice, const Sell16Shape& shape, Begin&& begin, Emit&& emit) const;
  void FillSlices(Sell16Layout* layout) const;
  uint64_t PlaceArrays(const Sell16Shape& shape, uint64_t num_groups, void* base, Sell16Layout* arrays) const;

  const PackedView packed_;
  RowCursor* rows_ = nullptr;  // those with kept weights, the longest first
  uint32_t num_rows_ = 0;
};

// The layout of pairs with this window, with codes of 6 bits where it would not be lean with those of 8; the scalar
// kernel's where more than `most_slots` slots would be taken for a weight.
Status MakeSell16(const PackedView& packed, uint32_t window, double most_slots, const FcKernel* kernel,
                  FcLayout** out);

// A slice is a part; its work is its steps.
uint32_t Sell16Split(const FcLayout* layout, uint32_t share, uint32_t shares);

// dx = dy * W, for any shape.
void Sell16Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// Bits of codes that stand in `high_bits` or `masks`.
constexpr uint32_t NumHighBits(const Sell16Shape& shape) {
  return shape.code_bits == 8 && !shape.triples ? 0 : shape.code_bits - 4;
}

constexpr uint32_t kMostShortRows = 65536;

inline uint32_t RowAt(const Sell16Layout& w, size_t at) {
  if (w.rows <= kMostShortRows) return static_cast<const uint16_t*>(w.row_of)[at];
  return static_cast<const uint32_t*>(w.row_of)[at];
}

// A slice's sums, clamped, go to their rows of one batch row.
inline void StoreSlice(const Sell16Layout& w, uint32_t slice, const float* sums, const RowBlock& out, float* y) {
  const uint32_t left = w.kept_rows - slice * kLanes, count = left < kLanes ? left : kLanes;
  for (uint32_t lane = 0; lane < count; ++lane) {
    const uint32_t row = RowAt(w, size_t{slice} * kLanes + lane);
    float v = sums[lane] + (out.bias != nullptr ? out.bias[row] : 0.0f);
    v = v < out.low ? out.low : v;
    y[row] = v > out.high ? out.high : v;
  }
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_SELL16_H_
