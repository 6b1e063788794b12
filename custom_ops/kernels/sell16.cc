#include "sell16.h"

#include <string.h>

#include <algorithm>

namespace keras_prune {
namespace {

uint32_t CodeAt(const Sell16Layout& w, uint64_t pair, uint32_t slot) {
  if (!w.nibbles) return w.codes[pair * kPairSlots + slot];
  const uint32_t code = w.codes[pair * kLanes + slot % kLanes] >> (slot / kLanes * 4) & 15;
  return w.fifth_bits == nullptr ? code : code | (w.fifth_bits[pair] >> FifthBit(slot) & 1) << 4;
}

void SetCode(const Sell16Layout& w, uint64_t pair, uint32_t slot, uint32_t code) {
  uint8_t& at = w.codes[w.nibbles ? pair * kLanes + slot % kLanes : pair * kPairSlots + slot];
  at = static_cast<uint8_t>(at | (w.nibbles ? (code & 15) << (slot / kLanes * 4) : code));
  if (w.fifth_bits != nullptr) w.fifth_bits[pair] |= code >> 4 << FifthBit(slot);
}

// The first column that a lane still needs, rounded down, as far from the base `before` as a byte can say. The window
// lies inside x if x is as long.
uint32_t NextBase(const RowCursor* lanes, uint32_t window, uint32_t cols, uint32_t before) {
  uint32_t first = kNoColumn;
  for (uint32_t lane = 0; lane < kLanes; ++lane) first = std::min(first, lanes[lane].col);
  if (first == kNoColumn) return kNoColumn;
  first = first / kBaseAlign * kBaseAlign;
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

// Calls begin(step, move) for each step of the slice and emit(step, lane, entry, offset) for each of its weights, which
// may be none; returns the number of steps.
template <typename Begin, typename Emit>
uint64_t Sell16Builder::WalkSlice(uint32_t slice, uint32_t window, Begin&& begin, Emit&& emit) const {
  RowCursor lanes[kLanes];
  LoadSlice(slice, lanes);
  uint64_t step = 0;
  uint32_t before = 0;
  for (uint32_t base; (base = NextBase(lanes, window, packed_.cols, before)) != kNoColumn; before = base, ++step) {
    begin(step, (base - before) / MoveUnit(window));
    uint32_t ready = 0;  // one bit a lane: a loop over its bits mispredicts once a step, not once a lane
    for (uint32_t lane = 0; lane < kLanes; ++lane) ready |= uint32_t{lanes[lane].col - base < window} << lane;
    for (; ready != 0; ready &= ready - 1) {
      const auto lane = static_cast<uint32_t>(__builtin_ctz(ready));
      emit(step, lane, lanes[lane].entry, lanes[lane].col - base);
      Advance(packed_, &lanes[lane]);
    }
  }
  return step;
}

uint64_t Sell16Builder::CountPairs(uint32_t window) const {
  const auto begin = [](uint64_t, uint32_t) {};
  const auto emit = [](uint64_t, uint32_t, uint32_t, uint32_t) {};
  uint64_t pairs = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) pairs += (WalkSlice(slice, window, begin, emit) + 1) / 2;
  return pairs;
}

uint64_t Sell16Builder::PlaceArrays(uint64_t num_pairs, void* base, Sell16Layout* arrays) const {
  Arena arena(base);
  arena.Take<Sell16Layout>(1);
  arrays->nibbles = packed_.codebook_size <= 32;
  arrays->first_pair = arena.Take<uint32_t>(uint64_t{NumSlices()} + 1);
  arrays->row_of = arena.Take<uint32_t>(uint64_t{NumSlices()} * kLanes);
  arrays->moves = arena.Take<uint8_t>(num_pairs * 2);
  arrays->columns = arena.Take<uint8_t>(num_pairs * kPairSlots);
  arrays->codes = arena.Take<uint8_t>(num_pairs * (arrays->nibbles ? kLanes : kPairSlots));
  arrays->fifth_bits = nullptr;
  if (arrays->nibbles && packed_.codebook_size > 16) arrays->fifth_bits = arena.Take<uint32_t>(num_pairs);
  return arena.used();
}

// Slots are zero at first: fillers at the base.
void Sell16Builder::FillSlices(Sell16Layout* layout) const {
  uint64_t first = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) {
    const auto begin = [&](uint64_t step, uint32_t move) {
      layout->moves[2 * first + step] = static_cast<uint8_t>(move);
    };
    const auto emit = [&](uint64_t step, uint32_t lane, uint32_t entry, uint32_t offset) {
      const uint64_t pair = first + step / 2;
      const auto slot = static_cast<uint32_t>(step % 2 * kLanes + lane);
      layout->columns[pair * kPairSlots + slot] = static_cast<uint8_t>(offset);
      SetCode(*layout, pair, slot, BitsAt(packed_.codes, entry, packed_.code_bits));
    };
    first += (WalkSlice(slice, layout->window, begin, emit) + 1) / 2;
    layout->first_pair[slice + 1] = static_cast<uint32_t>(first);
  }
}

Status Sell16Builder::Build(uint32_t window, uint64_t num_pairs, const FcKernel* kernel, FcLayout** out) const {
  Sell16Layout arrays;
  const uint64_t num_bytes = PlaceArrays(num_pairs, nullptr, &arrays);
  auto* layout = static_cast<Sell16Layout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed_, kernel, num_bytes, layout);
  PlaceArrays(num_pairs, layout, layout);
  layout->window = window;
  layout->num_parts = NumSlices();
  layout->kept_rows = num_rows_;
  // Sums begin at +0.0, to which a product of either zero adds the same.
  for (uint32_t code = 1; code < layout->codebook_size; ++code) {
    if (layout->codebook[code] == 0.0f) layout->codebook[code] = -0.0f;
  }
  for (uint32_t at = 0; at < num_rows_; ++at) layout->row_of[at] = rows_[at].row;
  FillSlices(layout);
  *out = layout;
  return Status::kOk;
}

Status MakeSell16(const PackedView& packed, uint32_t window, double most_slots, const FcKernel* kernel,
                  FcLayout** out) {
  Sell16Builder builder(packed);
  const Status status = builder.Scan();
  if (status != Status::kOk) return status;
  const uint64_t pairs = builder.CountPairs(window);
  if (static_cast<double>(pairs * kPairSlots) > most_slots * packed.num_kept) {
    return kFcScalar.make(packed, &kFcScalar, out);
  }
  return builder.Build(window, pairs, kernel, out);
}

uint32_t Sell16Split(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const uint64_t pairs = w.first_pair[w.num_parts];
  const auto until = static_cast<uint32_t>(pairs * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.first_pair, w.first_pair + w.num_parts, until) - w.first_pair);
}

namespace {

// Fillers add zero to a column of x; a branch for each slot would cost more.
template <int kBatch>
void BackwardTile(const Sell16Layout& w, const float* dy, float* dx) {
  const size_t rows = w.rows, cols = w.cols;
  for (uint32_t slice = 0; slice < w.num_parts; ++slice) {
    const uint32_t* row_of = w.row_of + size_t{slice} * kLanes;
    float* base = dx;
    for (uint64_t pair = w.first_pair[slice]; pair < w.first_pair[slice + 1]; ++pair) {
      for (uint32_t slot = 0; slot < kPairSlots; ++slot) {
        if (slot % kLanes == 0) base += size_t{w.moves[2 * pair + slot / kLanes]} * MoveUnit(w.window);
        const uint32_t code = CodeAt(w, pair, slot);
        float* at = base + w.columns[pair * kPairSlots + slot];
        for (int k = 0; k < kBatch; ++k) {
          const float product = w.codebook[code] * dy[row_of[slot % kLanes] + rows * k];
          at[cols * k] += code != 0 ? product : 0.0f;
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
