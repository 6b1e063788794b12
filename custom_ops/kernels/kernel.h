// What the kernels of all instruction sets share; internal to custom_ops/kernels.
//
// A new kernel is one file <dtype>_fc_<layout>__<isa>.cc with one FcKernel in it and one line in dispatch.cc. The build
// compiles the file only where the compiler's flags for <isa> are known.
#ifndef KERAS_PRUNE_KERNELS_KERNEL_H_
#define KERAS_PRUNE_KERNELS_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "fully_connected.h"

namespace keras_prune {

// How a kernel wants x.
enum class Input {
  kRows,       // float32 (count, cols), as it comes; any count
  kInt8Rows,   // int8 (count, stride), symmetrically quantized, zeros up to a stride that is a multiple of kAlignment
  kTile,       // float32 (cols, stride): a column's values of up to `tile` batch rows together; zeros behind `count`
  kInt8Tile,   // the same of rows that are quantized: whole numbers, and `scales`
};

// Some rows of x in the form that a kernel wants, and where their results go.
struct RowBlock {
  const void* x;
  size_t count;         // of batch rows; at most `tile` for Input::kTile
  size_t stride;        // elements from one batch row of x to the next; of kTile from one column to the next, 0: `tile`
  const float* scales;  // (count) of int8: one step of x, in each row
  const float* bias;    // (rows) or null
  float low, high;
  float* y;             // (count, y_stride)
  size_t y_stride;
};

// One way to run a fully connected layer. `make` may give a layout of another kernel where that runs better: a layout
// names the kernel that made it.
struct FcKernel {
  const char* name;  // of the file
  Isa isa;
  Input input;
  size_t tile;  // of Input::kTile, at most kMostTile; else 0
  Status (*make)(const PackedView& packed, const FcKernel* kernel, FcLayout** out);
  // Parts [first, end) of the layout's num_parts; a part's results do not depend on what else is in the range.
  void (*forward)(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end);
  // The part before which `share` of `shares` equal portions of the work end; null: all parts cost the same.
  uint32_t (*split)(const FcLayout* layout, uint32_t share, uint32_t shares);
  void (*backward)(const FcLayout* layout, const float* dy, size_t batch, float* dx);
  // Of int8: the same as QuantizeRow (inputs.h), faster; null: that.
  float (*quantize)(const float* x, size_t size, size_t stride, float scale, int8_t* values) = nullptr;
  // Of Input::kTile: fewer batch rows than `tile` come with the least multiple of this for a stride; 0: with `tile`.
  size_t tile_step = 0;
  // Of Input::kInt8Tile: makes a tile of float32 what the kernel wants, as QuantizeRow would its batch rows; `scales` has
  // room for `stride`.
  void (*quantize_tile)(float* tile, size_t cols, size_t stride, float x_scale, float* scales) = nullptr;
};

constexpr size_t kMostTile = 64;

// The head of every layout. A layout is one allocation: a struct that derives from this one, then its arrays.
struct FcLayout {
  const FcKernel* kernel;
  uint32_t rows;
  uint32_t cols;
  uint32_t kept_rows;  // `forward` writes the rows that have weights; where that is not all, FcForward writes others
  uint32_t codebook_size;
  uint32_t num_parts;   // what threads may share: slices, or blocks of rows; 0 without kept weights
  size_t num_bytes;     // of the allocation
  float w_scale;        // of int8: one step of the weights
  float codebook[256];  // by code; 0.0 for code 0 and for codes that are not used
};

constexpr size_t kAlignment = 64;  // a cache line, and an AVX-512 register

// Hands out aligned arrays of one allocation: first with a null base to learn the size, then for good.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* Take(uint64_t count) {
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + static_cast<size_t>(used_));
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;  // 64 bits also where size_t has 32: AllocateAligned refuses what does not fit
};

// Zeroed memory aligned to kAlignment, or null; released by FreeAligned.
void* AllocateAligned(uint64_t num_bytes);
void FreeAligned(void* memory);

// Fills the head of a layout; kept_rows is `rows`.
void InitLayout(const PackedView& packed, const FcKernel* kernel, uint64_t num_bytes, FcLayout* layout);

// What the references make: a copy of the packed bytes.
struct PackedLayout : FcLayout {
  PackedView packed;  // points into this allocation
};

extern const FcKernel kFcReference;
extern const FcKernel kFcScalar;
extern const FcKernel kFcTileScalar;
extern const FcKernel kFcS8Reference;
extern const FcKernel kFcS8Scalar;
extern const FcKernel kFcS8TileScalar;
#if defined(__x86_64__)
extern const FcKernel kFcAvx2;
extern const FcKernel kFcAvx512;
extern const FcKernel kFcTileAvx2;
extern const FcKernel kFcTileAvx512;
extern const FcKernel kFcS8Avx2;
extern const FcKernel kFcS8TileAvx2;
extern const FcKernel kFcS8ThinTileAvx2;
extern const FcKernel kFcS8TileAvx512;
extern const FcKernel kFcS8Avx512Vbmi;
#elif defined(__aarch64__)
extern const FcKernel kFcNeon;
extern const FcKernel kFcTileNeon;
extern const FcKernel kFcS8Neon;
extern const FcKernel kFcS8TileNeon;
extern const FcKernel kFcS8NeonDot;
extern const FcKernel kFcS8TileNeonDot;
#endif

// The kernel for what is asked for; the next best of the same CPU where there is none.
const FcKernel* KernelFor(const FcOptions& options);

// Static: a copy for each translation unit, see sparse_format.h.
static inline bool IsInt8(Input input) { return input == Input::kInt8Rows || input == Input::kInt8Tile; }
static inline bool IsTile(Input input) { return input == Input::kTile || input == Input::kInt8Tile; }

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_KERNEL_H_
