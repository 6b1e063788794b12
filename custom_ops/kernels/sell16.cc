#include "sell16.h"

#include <string.h>

#include <algorithm>

#include "lean.h"

namespace keras_prune {
namespace {

constexpr uint32_t GroupSteps(const Sell16Shape& shape) { return shape.triples ? 3 : 2; }

struct Slot {
  uint32_t column, code;
};

// The mask of a triple's step for a bit of codes above 4.
uint16_t& MaskAt(const Sell16Layout& w, uint64_t group, uint32_t step, uint32_t bit) {
  return w.masks[(group * 3 + step) * NumHighBits(w.shape) + bit];
}

// Of step `step` of a group.
Slot SlotAt(const Sell16Layout& w, uint64_t group, uint32_t step, uint32_t lane) {
  const uint32_t high_bits = NumHighBits(w.shape);
  if (w.shape.triples) {
    const uint32_t slot = w.triples[group * kLanes + lane] >> step * kTripleSlotBits;
    uint32_t code = slot >> kTripleColumnBits & 15;
    for (uint32_t bit = 0; bit < high_bits; ++bit) code |= (MaskAt(w, group, step, bit) >> lane & 1u) << (4 + bit);
    return {slot & (kTripleWindow - 1), code};
  }
  const uint32_t slot = step * kLanes + lane, column = w.columns[group * kPairSlots + slot];
  if (w.shape.code_bits == 8) return {column, w.codes[group * kPairSlots + slot]};
  uint32_t code = w.codes[group * kLanes + lane] >> step * 4 & 15;
  for (uint32_t bit = 0; bit < high_bits; ++bit) {
    code |= (w.high_bits[group * high_bits + bit] >> HighBit(slot) & 1) << (4 + bit);
  }
  return {column, code};
}

// All bits are zero at first.
void SetSlot(const Sell16Layout& w, uint64_t group, uint32_t step, uint32_t lane, const Slot& value) {
  const uint32_t high_bits = NumHighBits(w.shape), high = value.code >> 4;
  if (w.shape.triples) {
    const uint32_t bits = value.column | (value.code & 15) << kTripleColumnBits;
    w.triples[group * kLanes + lane] |= bits << step * kTripleSlotBits;
    for (uint32_t bit = 0; bit < high_bits; ++bit) {
      uint16_t& mask = MaskAt(w, group, step, bit);
      mask = static_cast<uint16_t>(mask | (high >> bit & 1) << lane);
    }
    return;
  }
  const uint32_t slot = step * kLanes + lane;
  w.columns[group * kPairSlots + slot] = static_cast<uint8_t>(value.column);
  if (w.shape.code_bits == 8) {
    w.codes[group * kPairSlots + slot] = static_cast<uint8_t>(value.code);
    return;
  }
  uint8_t& at = w.codes[group * kLanes + lane];
  at = static_cast<uint8_t>(at | (value.code & 15) << step * 4);
  for (uint32_t bit = 0; bit < high_bits; ++bit) {
    w.high_bits[group * high_bits + bit] |= (high >> bit & 1) << HighBit(slot);
  }
}

// Columns from the base before a step to its own.
uint32_t MoveAt(const Sell16Layout& w, uint64_t group, uint32_t step) {
  if (!w.shape.triples) return w.moves[2 * group + step] * MoveUnit(w.shape.window);
  uint32_t move = 0;
  for (uint32_t bit = 0; bit < kTripleMoveBits; ++bit) {
    move |= w.triples[group * kLanes + step * kTripleMoveBits + bit] >> 31 << bit;
  }
  return move == kMoveToEnd ? MoveToEnd(w.cols) : move * kBaseAlign;
}

void SetMove(const Sell16Layout& w, uint64_t group, uint32_t step, uint32_t columns) {
  if (!w.shape.triples) {
    w.moves[2 * group + step] = static_cast<uint8_t>(columns / MoveUnit(w.shape.window));
    return;
  }
  const uint32_t move = columns % kBaseAlign != 0 ? kMoveToEnd : columns / kBaseAlign;
  for (uint32_t bit = 0; bit < kTripleMoveBits; ++bit) {
    w.triples[group * kLanes + step * kTripleMoveBits + bit] |= (move >> bit & 1) << 31;
  }
}

// The window's last place inside x if x is as long. There triples come from the multiple of kBaseAlign before it only.
uint32_t BaseOfTriples(uint32_t first, uint32_t cols, uint32_t before) {
  const uint32_t last = cols > kTripleWindow ? cols - kTripleWindow : 0, aligned = last - MoveToEnd(cols);
  return std::min(std::min(first, before < aligned ? aligned : last), before + (kMoveToEnd - 1) * kBaseAlign);
}

// The first column that a lane still needs, rounded down, as far from the base `before` as a move can say. The window
// lies inside x if x is as long.
uint32_t NextBase(const RowCursor* lanes, const Sell16Shape& shape, uint32_t cols, uint32_t before) {
  const uint32_t window = shape.window;
  uint32_t first = kNoColumn;
  for (uint32_t lane = 0; lane < kLanes; ++lane) first = std::min(first, lanes[lane].col);
  if (first == kNoColumn) return kNoColumn;
  first = first / kBaseAlign * kBaseAlign;
  if (shape.triples) return BaseOfTriples(first, cols, before);
  if (MoveUnit(window) == 1) first = std::min(first, cols > window ? cols - window : 0);
  return std::min(first, before + UINT8_MAX * MoveUnit(window) / kBaseAlign * kBaseAlign);
}

}  // namespace

Sell16Builder::Sell16Builder(const PackedView& packed) : packed_(packed) {}

Sell16Builder::~Sell16Builder() { FreeAligned(rows_); }

Status Sell16Builder::Scan() {
  const uint64_t most_rows = std::min(packed_.rows, packed_.num_kept);
  rows_ = static_cast<RowCursor*>(AllocateAligned(most_rows * sizeof(RowCursor)));
  if (rows_ == nullptr) return Status::kOutOfMemory;
  num_rows_ = FindRows(packed_, rows_);
  std::sort(rows_, rows_ + num_rows_, [](const RowCursor& a, const RowCursor& b) {
    return a.left != b.left ? a.left > b.left : a.row < b.row;
  });
  return Status::kOk;
}

uint32_t Sell16Builder::NumSlices() const { return num_rows_ / kLanes + (num_rows_ % kLanes != 0); }

// The lanes' first weights; lanes without a row have none.
void Sell16Builder::LoadSlice(uint32_t slice, RowCursor* lanes) const {
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t at = uint64_t{slice} * kLanes + lane;
    lanes[lane] = at < num_rows_ ? rows_[at] : RowCursor{0, 0, kNoColumn, 0};
  }
}

// Calls begin(step, columns to move) for each step of the slice and emit(step, lane, entry, offset) for each of its
// weights, which may be none; returns the number of steps.
template <typename Begin, typename Emit>
uint64_t Sell16Builder::WalkSlice(uint32_t slice, const Sell16Shape& shape, Begin&& begin, Emit&& emit) const {
  RowCursor lanes[kLanes];
  LoadSlice(slice, lanes);
  uint64_t step = 0;
  uint32_t before = 0;
  for (uint32_t base; (base = NextBase(lanes, shape, packed_.cols, before)) != kNoColumn; before = base, ++step) {
    begin(step, base - before);
    uint32_t ready = 0;  // one bit a lane: a loop over its bits mispredicts once a step, not once a lane
    for (uint32_t lane = 0; lane < kLanes; ++lane) ready |= uint32_t{lanes[lane].col - base < shape.window} << lane;
    for (; ready != 0; ready &= ready - 1) {
      const auto lane = static_cast<uint32_t>(__builtin_ctz(ready));
      emit(step, lane, lanes[lane].entry, lanes[lane].col - base);
      Advance(packed_, &lanes[lane]);
    }
  }
  return step;
}

uint64_t Sell16Builder::CountGroups(const Sell16Shape& shape) const {
  const auto begin = [](uint64_t, uint32_t) {};
  const auto emit = [](uint64_t, uint32_t, uint32_t, uint32_t) {};
  uint64_t groups = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) {
    groups += (WalkSlice(slice, shape, begin, emit) + GroupSteps(shape) - 1) / GroupSteps(shape);
  }
  return groups;
}

uint32_t Sell16Builder::CodeBits(const Sell16Shape& shape) const {
  if (shape.code_bits != 0) return shape.code_bits;
  uint32_t bits = 4;
  while (1u << bits < packed_.codebook_size) ++bits;
  return shape.triples || bits <= 5 ? bits : 8;
}

uint64_t Sell16Builder::PlaceArrays(const Sell16Shape& shape, uint64_t num_groups, void* base,
                                    Sell16Layout* arrays) const {
  Arena arena(base);
  arena.Take<Sell16Layout>(1);
  arrays->shape = shape;
  arrays->shape.code_bits = CodeBits(shape);
  const uint64_t num_rows = uint64_t{NumSlices()} * kLanes, high_bits = NumHighBits(arrays->shape);
  arrays->first_group = arena.Take<uint32_t>(uint64_t{NumSlices()} + 1);
  if (packed_.rows <= kMostShortRows) {
    arrays->row_of = arena.Take<uint16_t>(num_rows);
  } else {
    arrays->row_of = arena.Take<uint32_t>(num_rows);
  }
  if (shape.triples) {
    arrays->triples = arena.Take<uint32_t>(num_groups * kLanes);
    arrays->masks = arena.Take<uint16_t>(num_groups * 3 * high_bits);
    return arena.used();
  }
  arrays->moves = arena.Take<uint8_t>(num_groups * 2);
  arrays->columns = arena.Take<uint8_t>(num_groups * kPairSlots);
  arrays->codes = arena.Take<uint8_t>(num_groups * (arrays->shape.code_bits == 8 ? kPairSlots : kLanes));
  arrays->high_bits = arena.Take<uint32_t>(num_groups * high_bits);
  return arena.used();
}

uint64_t Sell16Builder::NumBytes(const Sell16Shape& shape, uint64_t num_groups) const {
  Sell16Layout arrays;
  return PlaceArrays(shape, num_groups, nullptr, &arrays);
}

// Slots are zero at first: fillers at the base.
void Sell16Builder::FillSlices(Sell16Layout* layout) const {
  uint64_t first = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) {
    const uint32_t steps = GroupSteps(layout->shape);
    const auto begin = [&](uint64_t step, uint32_t columns) {
      SetMove(*layout, first + step / steps, static_cast<uint32_t>(step % steps), columns);
    };
    const auto emit = [&](uint64_t step, uint32_t lane, uint32_t entry, uint32_t offset) {
      const Slot slot = {offset, BitsAt(packed_.codes, entry, packed_.code_bits)};
      SetSlot(*layout, first + step / steps, static_cast<uint32_t>(step % steps), lane, slot);
    };
    first += (WalkSlice(slice, layout->shape, begin, emit) + steps - 1) / steps;
    layout->first_group[slice + 1] = static_cast<uint32_t>(first);
  }
}

Status Sell16Builder::Build(const Sell16Shape& shape, uint64_t num_groups, const FcKernel* kernel,
                            FcLayout** out) const {
  const uint64_t num_bytes = NumBytes(shape, num_groups);
  auto* layout = static_cast<Sell16Layout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed_, kernel, num_bytes, layout);
  PlaceArrays(shape, num_groups, layout, layout);
  layout->num_parts = NumSlices();
  layout->kept_rows = num_rows_;
  // Sums begin at +0.0, to which a product of either zero adds the same.
  for (uint32_t code = 1; code < layout->codebook_size; ++code) {
    if (layout->codebook[code] == 0.0f) layout->codebook[code] = -0.0f;
  }
  for (uint32_t at = 0; at < num_rows_; ++at) {
    if (packed_.rows <= kMostShortRows) {
      static_cast<uint16_t*>(layout->row_of)[at] = static_cast<uint16_t>(rows_[at].row);
    } else {
      static_cast<uint32_t*>(layout->row_of)[at] = rows_[at].row;
    }
  }
  FillSlices(layout);
  *out = layout;
  return Status::kOk;
}

Status MakeSell16(const PackedView& packed, uint32_t window, double most_slots, const FcKernel* kernel,
                  FcLayout** out) {
  Sell16Builder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  Sell16Shape shape = {window, false};
  const uint64_t pairs = builder.CountGroups(shape);
  if (static_cast<double>(pairs * kPairSlots) > most_slots * packed.num_kept) {
    return kFcScalar.make(packed, &kFcScalar, out);
  }
  const bool has_six_bits = packed.codebook_size > 32 && packed.codebook_size <= 64;
  if (has_six_bits && !IsLean(packed, builder.NumBytes(shape, pairs))) shape.code_bits = 6;
  return builder.Build(shape, pairs, kernel, out);
}

uint32_t Sell16Split(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const uint64_t groups = w.first_group[w.num_parts];
  const auto until = static_cast<uint32_t>(groups * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.first_group, w.first_group + w.num_parts, until) - w.first_group);
}

namespace {

// Fillers add zero to a column of x; a branch for each slot would cost more.
template <int kBatch>
void BackwardTile(const Sell16Layout& w, const float* dy, float* dx) {
  const size_t rows = w.rows, cols = w.cols;
  for (uint32_t slice = 0; slice < w.num_parts; ++slice) {
    float* base = dx;
    for (uint64_t group = w.first_group[slice]; group < w.first_group[slice + 1]; ++group) {
      for (uint32_t slot = 0; slot < GroupSteps(w.shape) * kLanes; ++slot) {
        const uint32_t step = slot / kLanes, lane = slot % kLanes;
        if (lane == 0) base += MoveAt(w, group, step);
        const Slot value = SlotAt(w, group, step, lane);
        const uint32_t row = RowAt(w, size_t{slice} * kLanes + lane);
        float* at = base + value.column;
        for (int k = 0; k < kBatch; ++k) {
          const float product = w.codebook[value.code] * dy[row + rows * k];
          at[cols * k] += value.code != 0 ? product : 0.0f;
        }
      }
    }
  }
}

}  // namespace

void Sell16Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch >= 4; batch -= 4, dy += size_t{w.rows} * 4, dx += size_t{w.cols} * 4) BackwardTile<4>(w, dy, dx);
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) BackwardTile<1>(w, dy, dx);
}

}  // namespace keras_prune
