// Int8 activations on tiles (tile.h): the whole numbers that x and W are quantized to, multiplied as float32.
//
// float32 holds whole numbers up to 2^24, and so a row's sums are exact, in any order, as long as 127 times the sum of
// its |w| stays within them: a row has room for 1040 weights of 127, or for 3300 of 40. The bits are those of all int8
// kernels. Longer rows are for the kernels that take rows of x.
//
// By count, bytes gain nothing with AVX2: for 32 batch rows a kept weight takes 4 multiplications as float32; as 16 bits
// 2 shuffles (`pmaddwd` wants the values of two columns side by side), 2 multiplications and 2 additions; as 8 bits 6.
//
// Measured on a core of a shared Zen 4, AVX2, as a share of the float32 kernel's time on tiles, and in brackets of
// s8_fc_quads's, at batch 8, 16, 32 and 64: LeNet fc1 1.17 (1.23), 1.23 (.92), 1.28 (.75), 1.29 (.74); AlexNet fc6 .91
// (.88), 1.13 (.62), 1.12 (.51), 1.02 (.44); VGG fc6 1.01 (.65), 1.04 (.46), 1.07 (.41), 1.44 (.47). What is more than 1
// are the rows of x, which are quantized, and results, which are scaled.
#ifndef KERAS_PRUNE_KERNELS_S8_FC_TILE_H_
#define KERAS_PRUNE_KERNELS_S8_FC_TILE_H_

#include "int8.h"
#include "tile.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

constexpr float kInfinity = __builtin_inff();
constexpr uint64_t kMostExact = (uint64_t{1} << 24) / 127;  // of a row's |w|

// Whether float32 holds the sums of all rows.
inline bool SumsAreExact(const PackedView& packed, const Int8Codebook& codebook) {
  uint64_t sum = 0;
  uint32_t of = UINT32_MAX;
  bool exact = true;
  VisitKept(packed, [&](uint32_t row, uint32_t, uint32_t code, uint32_t) {
    const int weight = codebook.values[code];
    sum = (row == of ? sum : 0) + static_cast<uint64_t>(weight < 0 ? -weight : weight);
    of = row;
    exact = exact && sum <= kMostExact;
  });
  return exact;
}

// A tile of x that costs more than it saves, or inexact sums: the kernel for rows.
inline Status MakeInt8Tile(const PackedView& packed, const FcKernel* kernel, FcLayout** out) {
  Int8Codebook codebook;
  QuantizeCodebook(packed, &codebook);
  if (packed.num_kept < packed.cols || !SumsAreExact(packed, codebook)) {
    const FcKernel* rows = KernelFor({kernel->isa, Activations::kInt8, 1});
    return rows->make(packed, rows, out);
  }
  const Status status = MakeTileLayout(packed, kernel, out);
  if (status != Status::kOk) return status;
  for (int code = 0; code < 256; ++code) (*out)->codebook[code] = codebook.values[code];
  (*out)->w_scale = codebook.scale;
  return Status::kOk;
}

// Sums, which stand in y, become results. Neighbours in W are neighbours in y.
inline void FinishInt8Rows(const TileLayout& w, const RowBlock& out, uint32_t part) {
  const uint32_t* row_of = w.row_of + size_t{part} * w.part_rows;
  const uint32_t left = w.kept_rows - part * w.part_rows, count = left < w.part_rows ? left : w.part_rows;
  for (uint32_t first = 0, n; first < count; first += n) {
    for (n = 1; first + n < count && row_of[first + n] == row_of[first] + n;) ++n;
    for (size_t b = 0; b < out.count; ++b) {
      const float scale = out.scales[b] * w.w_scale;
      float* y = out.y + b * out.y_stride;
      for (uint32_t row = row_of[first]; row < row_of[first] + n; ++row) y[row] = Int8Result(y[row], scale, out, row);
    }
  }
}

// `Kernel` is the float32 kernel on tiles of the same instruction set.
template <const FcKernel* kKernel>
void ForwardInt8Tile(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  RowBlock sums = rows;
  sums.bias = nullptr;
  sums.low = -kInfinity;
  sums.high = kInfinity;
  for (uint32_t part = first; part < end; ++part) {
    kKernel->forward(layout, sums, part, part + 1);
    FinishInt8Rows(*static_cast<const TileLayout*>(layout), rows, part);
  }
}

inline void BackwardInt8Tile(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  TileBackward(layout, dy, batch, dx);
  for (size_t i = 0; i < batch * layout->cols; ++i) dx[i] *= layout->w_scale;
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_S8_FC_TILE_H_
