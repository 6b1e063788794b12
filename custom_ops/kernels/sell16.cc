#include "sell16.h"

#include <string.h>

#include <algorithm>

namespace keras_prune {

Sell16Builder::Sell16Builder(const PackedView& packed) : packed_(packed) {}

Sell16Builder::~Sell16Builder() { FreeAligned(rows_); }

Status Sell16Builder::Scan() {
  const uint64_t most_rows = std::min(packed_.rows, packed_.num_kept);
  rows_ = static_cast<Row*>(AllocateAligned(most_rows * sizeof(Row)));
  if (rows_ == nullptr) return Status::kOutOfMemory;
  VisitKept(packed_, [this](uint32_t row, uint32_t col, uint32_t, uint32_t entry) {
    if (num_rows_ == 0 || rows_[num_rows_ - 1].row != row) rows_[num_rows_++] = {row, entry, col, 0};
    ++rows_[num_rows_ - 1].left;
  });
  std::sort(rows_, rows_ + num_rows_,
            [](const Row& a, const Row& b) { return a.left != b.left ? a.left > b.left : a.row < b.row; });
  return Status::kOk;
}

uint32_t Sell16Builder::NumSlices() const { return num_rows_ / kLanes + (num_rows_ % kLanes != 0); }

// The lanes' first weights; lanes without a row have none.
void Sell16Builder::LoadSlice(uint32_t slice, Lanes* lanes) const {
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t at = uint64_t{slice} * kLanes + lane;
    const Row row = at < num_rows_ ? rows_[at] : Row{0, 0, 0, 0};
    lanes->entry[lane] = row.entry;
    lanes->left[lane] = row.left;
    lanes->col[lane] = row.left != 0 ? row.col : kNoColumn;
  }
}

// To the row's next kept weight, over fillers; a filler has the largest gap, so most codes need not be read.
void Sell16Builder::Advance(uint32_t lane, Lanes* lanes) const {
  if (--lanes->left[lane] == 0) {
    lanes->col[lane] = kNoColumn;
    return;
  }
  const uint32_t largest_gap = (1u << packed_.gap_bits) - 1;
  uint32_t gap;
  do {
    gap = BitsAt(packed_.gaps, ++lanes->entry[lane], packed_.gap_bits);
    lanes->col[lane] += gap + 1;
  } while (gap == largest_gap && BitsAt(packed_.codes, lanes->entry[lane], packed_.code_bits) == 0);
}

// The first column that a lane still needs, rounded down, and so that the whole window lies inside x if x is as long.
uint32_t Sell16Builder::BaseOf(const Lanes& lanes, uint32_t window) const {
  uint32_t first = kNoColumn;
  for (uint32_t lane = 0; lane < kLanes; ++lane) first = std::min(first, lanes.col[lane]);
  if (first == kNoColumn) return kNoColumn;
  const uint32_t last_base = packed_.cols > window ? packed_.cols - window : 0;
  return std::min(first / kBaseAlign * kBaseAlign, last_base);
}

// Calls emit(step, base, lane, entry, col) for each weight of the slice, step by step; returns the number of steps.
template <typename Emit>
uint64_t Sell16Builder::WalkSlice(uint32_t slice, uint32_t window, Emit&& emit) const {
  Lanes lanes;
  LoadSlice(slice, &lanes);
  uint64_t step = 0;
  for (uint32_t base; (base = BaseOf(lanes, window)) != kNoColumn; ++step) {
    uint32_t ready = 0;  // one bit a lane: a loop over its bits mispredicts once a step, not once a lane
    for (uint32_t lane = 0; lane < kLanes; ++lane) ready |= uint32_t{lanes.col[lane] - base < window} << lane;
    for (; ready != 0; ready &= ready - 1) {
      const auto lane = static_cast<uint32_t>(__builtin_ctz(ready));
      emit(step, base, lane, lanes.entry[lane], lanes.col[lane]);
      Advance(lane, &lanes);
    }
  }
  return step;
}

uint64_t Sell16Builder::CountSteps(uint32_t window) const {
  uint64_t steps = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) {
    steps += WalkSlice(slice, window, [](uint64_t, uint32_t, uint32_t, uint32_t, uint32_t) {});
  }
  return steps;
}

uint64_t Sell16Builder::PlaceArrays(uint64_t num_steps, void* base, Sell16Layout* arrays) const {
  Arena arena(base);
  arena.Take<Sell16Layout>(1);
  arrays->first_step = arena.Take<uint32_t>(uint64_t{NumSlices()} + 1);
  arrays->row_of = arena.Take<uint32_t>(uint64_t{NumSlices()} * kLanes);
  arrays->bases = arena.Take<uint32_t>(num_steps);
  arrays->slots = arena.Take<uint16_t>(num_steps * kLanes);
  return arena.used();
}

Status Sell16Builder::Build(uint32_t window, uint64_t num_steps, const FcKernel* kernel, FcLayout** out) const {
  Sell16Layout arrays;
  const uint64_t num_bytes = PlaceArrays(num_steps, nullptr, &arrays);
  auto* layout = static_cast<Sell16Layout*>(AllocateAligned(num_bytes));
  if (layout == nullptr) return Status::kOutOfMemory;
  InitLayout(packed_, kernel, num_bytes, layout);
  PlaceArrays(num_steps, layout, layout);
  layout->window = window;
  layout->num_parts = NumSlices();
  layout->kept_rows = num_rows_;
  for (uint32_t at = 0; at < num_rows_; ++at) layout->row_of[at] = rows_[at].row;
  for (uint64_t slot = 0; slot < num_steps * kLanes; ++slot) {  // fillers: each lane another column, inside x
    layout->slots[slot] = static_cast<uint16_t>(slot % kLanes < packed_.cols ? slot % kLanes : 0);
  }
  uint64_t first = 0;
  for (uint32_t slice = 0; slice < NumSlices(); ++slice) {
    first += WalkSlice(slice, window, [&](uint64_t step, uint32_t base, uint32_t lane, uint32_t entry, uint32_t col) {
      const uint32_t code = BitsAt(packed_.codes, entry, packed_.code_bits);
      layout->bases[first + step] = base;
      layout->slots[(first + step) * kLanes + lane] = static_cast<uint16_t>((col - base) | code << 8);
    });
    layout->first_step[slice + 1] = static_cast<uint32_t>(first);
  }
  *out = layout;
  return Status::kOk;
}

namespace {

// Fillers add zero to a column of their own; a branch for each slot would cost more.
template <int kBatch>
void BackwardTile(const Sell16Layout& w, const float* dy, float* dx) {
  const size_t rows = w.rows, cols = w.cols;
  for (uint32_t slice = 0; slice < w.num_parts; ++slice) {
    const uint32_t* row_of = w.row_of + size_t{slice} * kLanes;
    for (uint32_t step = w.first_step[slice]; step < w.first_step[slice + 1]; ++step) {
      const uint16_t* slots = w.slots + size_t{step} * kLanes;
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        const uint32_t code = slots[lane] >> 8;
        const size_t col = w.bases[step] + (slots[lane] & 0xFF);
        for (int k = 0; k < kBatch; ++k) {
          const float product = w.codebook[code] * dy[row_of[lane] + rows * k];
          dx[col + cols * k] += code != 0 ? product : 0.0f;
        }
      }
    }
  }
}

}  // namespace

uint32_t Sell16Split(const FcLayout* layout, uint32_t share, uint32_t shares) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  const uint64_t steps = w.first_step[w.num_parts];
  const auto until = static_cast<uint32_t>(steps * share / shares);
  return static_cast<uint32_t>(std::lower_bound(w.first_step, w.first_step + w.num_parts, until) - w.first_step);
}

void Sell16Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  const auto& w = *static_cast<const Sell16Layout*>(layout);
  if (batch != 0) memset(dx, 0, batch * w.cols * sizeof(float));
  for (; batch >= 4; batch -= 4, dy += size_t{w.rows} * 4, dx += size_t{w.cols} * 4) BackwardTile<4>(w, dy, dx);
  for (; batch != 0; --batch, dy += w.rows, dx += w.cols) BackwardTile<1>(w, dy, dx);
}

}  // namespace keras_prune
