// The compute layout of the vector kernels: 16 rows a slice (sliced ELL), a lane each, walking the columns together.
//
// A slice is a list of steps. A step has a base column and 16 slots, one a lane: a column in the *window*
// [base, base + window) and a code, or a filler (code 0). A kernel reads the window's x once for all lanes: a window
// of 32 or 64 columns fits in AVX-512 registers, where a look-up replaces the gather. The builder lets a lane run
// ahead of the others as far as the window goes, so that few slots are fillers; rows are sorted by length for the
// same reason.
#ifndef KERAS_PRUNE_KERNELS_SELL16_H_
#define KERAS_PRUNE_KERNELS_SELL16_H_

#include <cstddef>
#include <cstdint>

#include "kernel.h"

namespace keras_prune {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kBaseAlign = 16;  // bases are whole cache lines of x, except where the window would pass x's end

// A slot: the low byte is the column minus the base, the high byte the code. A filler's column is inside x too, so that
// a kernel may load it, but must not use it.
struct Sell16Layout : FcLayout {
  uint32_t window;
  uint32_t* first_step;  // num_parts + 1
  uint32_t* row_of;      // num_parts * 16; only the first `kept_rows` are rows
  uint32_t* bases;       // one a step
  uint16_t* slots;       // 16 a step
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
  // Both after Scan. A window has 16 to 256 columns; num_steps is what CountSteps said of it.
  uint64_t CountSteps(uint32_t window) const;
  Status Build(uint32_t window, uint64_t num_steps, const FcKernel* kernel, FcLayout** out) const;

 private:
  struct Row {
    uint32_t row, entry, col, left;  // the next kept weight and how many are left
  };
  struct Lanes {
    uint32_t entry[kLanes], left[kLanes];
    uint32_t col[kLanes];  // kNoColumn when nothing is left
  };
  static constexpr uint32_t kNoColumn = UINT32_MAX;  // no column is that large, nor within a window of the last base
  uint32_t NumSlices() const;
  void LoadSlice(uint32_t slice, Lanes* lanes) const;
  void Advance(uint32_t lane, Lanes* lanes) const;
  uint32_t BaseOf(const Lanes& lanes, uint32_t window) const;
  template <typename Emit>
  uint64_t WalkSlice(uint32_t slice, uint32_t window, Emit&& emit) const;
  uint64_t PlaceArrays(uint64_t num_steps, void* base, Sell16Layout* arrays) const;

  const PackedView packed_;
  Row* rows_ = nullptr;  // those with kept weights, the longest first
  uint32_t num_rows_ = 0;
};

// A slice is a part; its work is its steps.
uint32_t Sell16Split(const FcLayout* layout, uint32_t share, uint32_t shares);

// dx = dy * W, for any window.
void Sell16Backward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_SELL16_H_
