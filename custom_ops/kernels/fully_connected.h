// Fully connected layers on packed weights: y = activation(x * W^T + bias), W of shape (rows, cols).
// The compute layout is made once from the storage format, for one instruction set and a number of batch rows; calls
// decode nothing and the dense W is never formed. The TF op and the TFLite delegate are thin shells over these functions.
// Making a layout allocates it (and lists that are freed again); computing allocates nothing.
#ifndef KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_
#define KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_

#include <cstddef>
#include <cstdint>

#include "../sparse_format.h"
#include "isa.h"
#include "workers.h"

namespace keras_prune {

// What is multiplied: kInt8 quantizes each row of x, symmetrically, to the whole numbers from -127 to 127, and the
// codebook likewise; sums are exact 32-bit integers.
enum class Activations { kFloat32, kInt8 };

// What a layout is made for. Any layout computes any batch; it is fastest for what it was made for.
struct FcOptions {
  Isa isa = Isa::kScalar;
  Activations activations = Activations::kFloat32;
  size_t batch = 1;
};

struct FcLayout;  // opaque, immutable after it is made, safe to share between threads

// Makes the layout from a parsed buffer; *out is null unless kOk. The buffer may be freed afterwards. Time and memory
// follow the buffer's length, whatever numbers of rows and columns it claims; that those are what the caller's tensors
// have is for the caller to check first.
Status MakeFcLayout(const PackedView& packed, const FcOptions& options, FcLayout** out);
void FreeFcLayout(FcLayout* layout);
uint32_t FcRows(const FcLayout* layout);
uint32_t FcCols(const FcLayout* layout);
size_t FcLayoutBytes(const FcLayout* layout);
const char* FcKernelName(const FcLayout* layout);  // for example "f32_fc_sell16__avx2"

// Whether MakeFcLayout makes the same layout for both, also where it is one of another kernel that runs better.
bool FcSameLayout(const FcOptions& a, const FcOptions& b);

// How many of `num_threads` pay for a call of this batch: all, or 1 where it is done before another thread is awake.
int FcThreads(const FcLayout* layout, size_t batch, int num_threads);

// x: (batch, cols), y: (batch, rows), row-major float32; bias: (rows) or null; y is clamped to [low, high].
struct FcCall {
  const float* x;
  size_t batch;
  const float* bias;
  float low, high;
  float* y;
  float x_scale = 0.0f;        // of int8 activations: one step of x; 0: of each row's largest value
  Workers* workers = nullptr;  // null: the caller's thread alone; results are the same for any number of threads
  void* workspace = nullptr;   // FcWorkspaceBytes of memory, aligned to kWorkspaceAlignment; nobody else may use it meanwhile
};

constexpr size_t kWorkspaceAlignment = 64;

// What a call of this batch needs; 0 for many kernels. 64 bits also where size_t has 32: the caller refuses what has no
// room in memory.
uint64_t FcWorkspaceBytes(const FcLayout* layout, size_t batch, int num_threads);
void FcForward(const FcLayout* layout, const FcCall& call);

// The gradient with respect to x: dy: (batch, rows) -> dx: (batch, cols) = dy * W.
void FcBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_
