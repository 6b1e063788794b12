// Fully connected layers on packed weights: y = activation(x * W^T + bias), W of shape (rows, cols).
// The compute layout is made once from the storage format, for one instruction set; calls decode nothing
// and the dense W is never formed. The TF op and the TFLite delegate are thin shells over these functions.
// Making a layout allocates it (and lists that are freed again); computing allocates nothing.
#ifndef KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_
#define KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_

#include <cstddef>
#include <cstdint>

#include "../sparse_format.h"

namespace keras_prune {

enum class Isa { kReference, kScalar, kAvx2, kAvx512 };

// The best instruction set of this CPU that this build has kernels for; KERAS_PRUNE_ISA
// (reference|scalar|avx2|avx512) in the environment forces one, for tests. *ok is false when the
// forced one is unknown or this CPU lacks it.
Isa SelectIsa(bool* ok);
bool IsaSupported(Isa isa);
const char* IsaName(Isa isa);
bool IsaFromName(const char* name, Isa* isa);  // false when this build knows no such name

struct FcLayout;  // opaque, immutable after it is made, safe to share between threads

// Makes the layout from a parsed buffer; *out is null unless kOk. The buffer may be freed afterwards. Time and memory
// follow the buffer's length, whatever numbers of rows and columns it claims; that those are what the caller's tensors
// have is for the caller to check first.
Status MakeFcLayout(const PackedView& packed, Isa isa, FcLayout** out);
void FreeFcLayout(FcLayout* layout);
uint32_t FcRows(const FcLayout* layout);
uint32_t FcCols(const FcLayout* layout);
size_t FcLayoutBytes(const FcLayout* layout);

// x: (batch, cols), y: (batch, rows), row-major float32; bias: (rows) or null; y is clamped to [low, high].
void FcForward(const FcLayout* layout, const float* x, size_t batch, const float* bias, float low, float high,
               float* y);

// The gradient with respect to x: dy: (batch, rows) -> dx: (batch, cols) = dy * W.
void FcBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_FULLY_CONNECTED_H_
