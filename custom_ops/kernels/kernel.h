// What the kernels of all instruction sets share; internal to custom_ops/kernels.
//
// A new instruction set (ARM's NEON, SVE) is one file f32_fc_<layout>__<isa>.cc with one FcKernel in it, one value of
// Isa and one line in dispatch.cc. The build compiles the file only where the compiler's flags for <isa> are known.
#ifndef KERAS_PRUNE_KERNELS_KERNEL_H_
#define KERAS_PRUNE_KERNELS_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "fully_connected.h"

namespace keras_prune {

// One way to run a fully connected layer. `make` may give a layout of another kernel where that runs better: a layout
// names the kernel that made it.
struct FcKernel {
  Isa isa;
  Status (*make)(const PackedView& packed, const FcKernel* kernel, FcLayout** out);
  void (*forward)(const FcLayout* layout, const float* x, size_t batch, const float* bias, float low, float high,
                  float* y);
  void (*backward)(const FcLayout* layout, const float* dy, size_t batch, float* dx);
};

// The head of every layout. A layout is one allocation: a struct that derives from this one, then its arrays.
struct FcLayout {
  const FcKernel* kernel;
  uint32_t rows;
  uint32_t cols;
  uint32_t kept_rows;  // `forward` writes the rows that have weights; where that is not all, FcForward writes others
  uint32_t codebook_size;
  size_t num_bytes;     // of the allocation
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

extern const FcKernel kFcReference;
extern const FcKernel kFcScalar;
#if defined(__x86_64__)
extern const FcKernel kFcAvx2;
extern const FcKernel kFcAvx512;
#endif

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_KERNEL_H_
