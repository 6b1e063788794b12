#include "quads.h"

#include <string.h>

#include <algorithm>

#include "lean.h"

namespace keras_prune {
namespace {

// A slot's byte for a column of the window, and back: the exchange of bits is its own inverse.
uint8_t SlotOf(const QuadsShape& shape, uint32_t offset) {
  if (!shape.for_pshufb) return static_cast<uint8_t>(offset);
  return static_cast<uint8_t>((offset & 15) | (offset & 16) << 3 | (offset & 32) << 1 | (offset & 64) >> 1);
}

uint32_t OffsetOf(const QuadsShape& shape, uint8_t slot) {
  if (!shape.for_pshufb) return slot & (shape.window - 1);
  const uint32_t offset = (slot & 15u) | (slot & 128u) >> 3 | (slot & 64u) >> 1 | (slot & 32u) << 1;
  return offset & (shape.window - 1);
}

// Where a slot has bits of its code: a byte of its pair of steps, and a shift.
struct BitPlace {
  uint32_t byte, shift;
};

BitPlace PlaceOfLowBits(const QuadsShape& shape, uint32_t step, uint32_t slot) {
  const uint32_t slots = shape.lanes * kQuad;
  if (shape.low_bits == 4) return {2 * slots + slot, 4 * step};
  return {2 * slots + slot % (slots / 2), 4 * step + 2 * (slot / (slots / 2))};
}

BitPlace PlaceInColumn(const QuadsShape& shape, uint32_t step, uint32_t slot) {
  return {step * shape.lanes * kQuad + slot, shape.for_pshufb ? 4u : shape.window <= 64 ? 6u : 7u};
}

// A word for a step of 8 lanes, a bit a slot. For AVX2 a shift of each 4 slots' copy of the word by their number brings
// the bits to the tops of their bytes.
BitPlace PlaceOfHighBit(const QuadsShape& shape, uint32_t step, uint32_t slot) {
  const uint32_t first = HighPlane(shape) + step * shape.lanes * kQuad / 8;
  if (shape.for_pshufb) return {first + slot % 4, 7 - slot / 4};
  return {first + slot / 8, slot % 8};
}

void PutBits(const BitPlace& at, uint32_t bits, uint8_t* pair) {
  pair[at.byte] = static_cast<uint8_t>(pair[at.byte] | bits << at.shift);
}

// All bits but the column's are zero at first.
void SetCode(const QuadsShape& shape, uint32_t step, uint32_t slot, uint32_t code, uint8_t* pair) {
  const uint32_t high = code >> shape.low_bits, by_column = BitsByColumn(shape);
  PutBits(PlaceOfLowBits(shape, step, slot), code & ((1u << shape.low_bits) - 1), pair);
  PutBits(PlaceInColumn(shape, step, slot), high & ((1u << by_column) - 1), pair);
  if (by_column < HighBits(shape)) PutBits(PlaceOfHighBit(shape, step, slot), high >> by_column, pair);
}

uint32_t BitsOf(const BitPlace& at, uint32_t num_bits, const uint8_t* pair) {
  return uint32_t{pair[at.byte]} >> at.shift & ((1u << num_bits) - 1);
}

int8_t WeightOf(const QuadsLayout& w, const uint8_t* pair, uint32_t step, uint32_t slot) {
  const QuadsShape& shape = w.shape;
  if (shape.code_bits == 0) return static_cast<int8_t>(pair[(2 + step) * shape.lanes * kQuad + slot]);
  const uint32_t by_column = BitsByColumn(shape);
  uint32_t high = BitsOf(PlaceInColumn(shape, step, slot), by_column, pair);
  if (by_column < HighBits(shape)) high |= BitsOf(PlaceOfHighBit(shape, step, slot), 1, pair) << by_column;
  return w.table[BitsOf(PlaceOfLowBits(shape, step, slot), shape.low_bits, pair) | high << shape.low_bits];
}

}  // namespace

QuadsBuilder::QuadsBuilder(const PackedView& packed) : packed_(packed) {}

QuadsBuilder::~QuadsBuilder() { FreeAligned(rows_); }

Status QuadsBuilder::Scan() {
  const uint64_t most_rows = std::min(packed_.rows, packed_.num_kept);
  rows_ = static_cast<RowCursor*>(AllocateAligned(most_rows * sizeof(RowCursor)));
  if (rows_ == nullptr) return Status::kOutOfMemory;
  num_rows_ = FindRows(packed_, rows_);
  std::sort(rows_, rows_ + num_rows_, [](const RowCursor& a, const RowCursor& b) {
    return a.left != b.left ? a.left > b.left : a.row < b.row;
  });
  return Status::kOk;
}

uint32_t QuadsBuilder::LargestWindow() const { return packed_.cols <= kAlignment ? kAlignment : 2 * kAlignment; }

uint32_t QuadsBuilder::LongestRow() const { return num_rows_ != 0 ? rows_[0].left : 0; }

uint32_t QuadsBuilder::NumForms() const { return packed_.codebook_size <= 64 ? 2 : 1; }

QuadsShape QuadsBuilder::FormOf(const QuadsShape& shape, uint32_t form) const {
  const uint32_t size = packed_.codebook_size;
  QuadsShape made = shape;
  made.code_bits = size <= 16 ? 4 : form == 0 ? 0 : size <= 32 ? 5 : 6;
  made.low_bits = size <= 16 && form == 1 ? 2 : 4;
  return made;
}

uint32_t QuadsBuilder::NumSlices(const QuadsShape& shape) const {
  return num_rows_ / shape.lanes + (num_rows_ % shape.lanes != 0);
}

// The lanes' first weights; lanes without a row have none.
void QuadsBuilder::LoadSlice(const QuadsShape& shape, uint32_t slice, Lanes* lanes) const {
  lanes->base = 0;
  for (uint32_t lane = 0; lane < shape.lanes; ++lane) {
    const uint64_t at = uint64_t{slice} * shape.lanes + lane;
    lanes->at[lane] = at < num_rows_ ? rows_[at] : RowCursor{0, 0, kNoColumn, 0};
  }
}

// To the first column that a lane still needs, as far as a byte can say, the window staying inside the padded x;
// false: no lane needs one.
bool QuadsBuilder::MoveBase(const QuadsShape& shape, Lanes* lanes) const {
  uint32_t first = kNoColumn;
  for (uint32_t lane = 0; lane < shape.lanes; ++lane) first = std::min(first, lanes->at[lane].col);
  if (first == kNoColumn) return false;
  const uint64_t padded = (uint64_t{packed_.cols} + kAlignment - 1) / kAlignment * kAlignment;
  const auto last_base = static_cast<uint32_t>(padded - shape.window);
  lanes->base = std::min(std::min(first, last_base), lanes->base + UINT8_MAX);
  return true;
}

// Calls begin(step, move) for each step of the slice and emit(step, slot, entry, offset) for each of its weights, which
// may be none; returns the number of steps.
template <typename Begin, typename Emit>
uint64_t QuadsBuilder::WalkSlice(const QuadsShape& shape, uint32_t slice, Begin&& begin, Emit&& emit) const {
  Lanes lanes;
  LoadSlice(shape, slice, &lanes);
  uint64_t step = 0;
  for (uint32_t before = 0; MoveBase(shape, &lanes); before = lanes.base, ++step) {
    begin(step, lanes.base - before);
    for (uint32_t lane = 0; lane < shape.lanes; ++lane) {
      RowCursor* at = lanes.at + lane;
      for (uint32_t k = 0; k < kQuad && at->col - lanes.base < shape.window; ++k) {
        emit(step, lane * kQuad + k, at->entry, at->col - lanes.base);
        Advance(packed_, at);
      }
    }
  }
  return step;
}

uint64_t QuadsBuilder::CountPairs(const QuadsShape& shape, uint32_t stride) const {
  const auto begin = [](uint64_t, uint32_t) {};
  const auto emit = [](uint64_t, uint32_t, uint32_t, uint32_t) {};
  const uint64_t slices = NumSlices(shape);
  uint64_t pairs = 0, counted = 0;
  for (uint64_t slice = 0; slice < slices; slice += stride, ++counted) {
    pairs += (WalkSlice(shape, static_cast<uint32_t>(slice), begin, emit) + 1) / 2;
  }
  return counted == 0 ? 0 : pairs * slices / counted;
}

uint64_t QuadsBuilder::PlaceArrays(const QuadsShape& shape, uint64_t num_pairs, void* base, QuadsLayout* arrays) const {
  Arena arena(base);
  arena.Take<QuadsLayout>(1);
  arrays->first_pair = arena.Take<uint32_t>(uint64_t{NumSlices(shape)} + 1);
  arrays->row_of = arena.Take<uint32_t>(uint64_t{NumSlices(shape)} * shape.lanes);
  arrays->moves = arena.Take<uint8_t>(2 * num_pairs);
  arrays->slots = arena.Take<uint8_t>(num_pairs * PairBytes(shape));
  return arena.used();
}

uint64_t QuadsBuilder::NumBytes(const QuadsShape& shape, uint64_t num_pairs) const {
  QuadsLayout arrays;
  return PlaceArrays(shape, num_pairs, nullptr, &arrays);
}

// Slots are zero at first: column 0 of the window with weight 0, or with code 0, whose weight is 0.
void QuadsBuilder::FillSlices(const Int8Codebook& codebook, QuadsLayout* layout) const {
  const QuadsShape& shape = layout->shape;
  const uint32_t slots = shape.lanes * kQuad;
  uint64_t first = 0;
  for (uint32_t slice = 0; slice < NumSlices(shape); ++slice) {
    uint8_t* moves = layout->moves + 2 * first;
    const auto begin = [moves](uint64_t step, uint32_t move) { moves[step] = static_cast<uint8_t>(move); };
    const auto emit = [&](uint64_t step, uint32_t slot, uint32_t entry, uint32_t offset) {
      uint8_t* pair = layout->slots + (first + step / 2) * PairBytes(shape);
      const uint32_t half = step % 2, code = BitsAt(packed_.codes, entry, packed_.code_bits);
      pair[half * slots + slot] = SlotOf(shape, offset);
      if (shape.code_bits != 0) {
        SetCode(shape, half, slot, code, pair);
      } else {
        pair[(2 + half) * slots + slot] = static_cast<uint8_t>(codebook.values[code]);
      }
    };
    first += (WalkSlice(shape, slice, begin, emit) + 1) / 2;
    layout->first_pair[slice + 1] = static_cast<uint32_t>(first);
  }
}

Status QuadsBuilder::Build(const QuadsShape& shape, const FcKernel* kernel, FcLayout** out) const {
  const uint64_t num_pairs = CountPairs(shape, 1), num_bytes = NumBytes(shape, num_pairs);
  auto* layout = static_cast<QuadsLayout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed_, kernel, num_bytes, layout);
  PlaceArrays(shape, num_pairs, layout, layout);
  Int8Codebook codebook;
  QuantizeCodebook(packed_, &codebook);
  layout->shape = shape;
  layout->w_scale = codebook.scale;
  memcpy(layout->table, codebook.values, sizeof layout->table);
  layout->num_parts = NumSlices(shape);
  layout->kept_rows = num_rows_;
  for (uint32_t at = 0; at < num_rows_; ++at) layout->row_of[at] = rows_[at].row;
  FillSlices(codebook, layout);
  *out = layout;
  return Status::kOk;
}

namespace {

struct Choice {
  QuadsShape shape;
  uint64_t pairs, bytes;
};

// What MakeQuads says.
Choice FirstLean(const QuadsBuilder& builder, const PackedView& packed, QuadsShape shape) {
  Choice best = {};
  if (shape.window == 0 || shape.window > builder.LargestWindow()) shape.window = builder.LargestWindow();
  for (; shape.window <= builder.LargestWindow(); shape.window *= 2) {
    const uint64_t pairs = builder.CountPairs(shape, kSampledSlices);
    for (uint32_t form = 0; form < builder.NumForms(); ++form) {
      const QuadsShape some = builder.FormOf(shape, form);
      const uint64_t bytes = builder.NumBytes(some, pairs);
      if (best.bytes == 0 || bytes < best.bytes) best = {some, pairs, bytes};
      if (IsLean(packed, bytes)) return {some, pairs, bytes};
    }
  }
  return best;
}

}  // namespace

Status MakeQuads(const PackedView& packed, QuadsShape shape, const FcKernel* kernel, FcLayout** out) {
  QuadsBuilder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  const Choice choice = FirstLean(builder, packed, shape);
  const bool is_vector = packed.num_kept != 0 && builder.LongestRow() <= kMostInt8Weights &&
                         QuadsFit(choice.shape, choice.pairs, packed.num_kept);
  return is_vector ? builder.Build(choice.shape, kernel, out) : kFcS8Scalar.make(packed, &kFcS8Scalar, out);
}

uint32_t QuadsSplit(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  const uint64_t pairs = w.first_pair[w.num_parts];
  const auto until = static_cast<uint32_t>(pairs * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.first_pair, w.first_pair + w.num_parts, until) - w.first_pair);
}

void QuadsBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const QuadsLayout*>(layout);
  const uint32_t slots = w.shape.lanes * kQuad;
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) {
    for (uint32_t slice = 0; slice < w.num_parts; ++slice) {
      const uint32_t* row_of = w.row_of + size_t{slice} * w.shape.lanes;
      float* base = dx;
      for (uint32_t step = 2 * w.first_pair[slice]; step < 2 * w.first_pair[slice + 1]; ++step) {
        const uint8_t* pair = w.slots + size_t{step / 2} * PairBytes(w.shape);
        base += w.moves[step];
        for (uint32_t slot = 0; slot < slots; ++slot) {
          const int8_t weight = WeightOf(w, pair, step % 2, slot);
          if (weight == 0) continue;  // fillers, also in lanes without a row
          const float product = static_cast<float>(weight) * w.w_scale * dy[row_of[slot / kQuad]];
          base[OffsetOf(w.shape, pair[step % 2 * slots + slot])] += product;
        }
      }
    }
  }
}

}  // namespace keras_prune
