// The storage format of weights, version 2: the C++ mirror of keras_prune/tensor_format.py. docs/format.md describes
// every byte. A tensor is decoded once, as a (rows, cols) matrix. Freestanding C++17: no heap, no exceptions, no RTTI;
// about 50 KB of stack.
#ifndef KERAS_PRUNE_TENSOR_FORMAT_H_
#define KERAS_PRUNE_TENSOR_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "entropy_coding.h"
#include "sparse_format.h"

namespace keras_prune {

enum class Positions : uint8_t { kAll = 0, kGaps = 1, kBitmap = 2 };
enum class Values : uint8_t { kCodebook = 0, kScaled = 1, kSplit = 2 };
enum class ElementType : uint8_t { kFloat32 = 0, kFloat16 = 1, kInt8 = 2, kUint8 = 3 };

size_t ElementBytes(ElementType type);

// A buffer whose head, checksum and sections were checked; points into the caller's bytes, which may be unaligned.
struct TensorView {
  uint32_t rows = 0, cols = 0;              // at most 2^31 - 1; their product is below 2^32
  uint32_t block_rows = 0, block_cols = 0;  // of a unit
  uint32_t num_units = 0;                   // kept ones
  uint32_t codebook_size = 0;               // codebook: with the zero of code 0
  Positions positions = Positions::kAll;
  Values values = Values::kCodebook;
  ElementType element = ElementType::kFloat32;  // as it is stored
  uint8_t escape = 0;
  uint8_t fill = 0;
  const uint8_t* table = nullptr;  // float32: the codebook from code 1 on, or the rows' scales
  SymbolStream position_stream;    // unless all units are kept
  SymbolStream symbol_stream;      // one symbol a value
  const uint8_t* low = nullptr;    // split: the values' other bytes
};

// Kept units and pruned ones.
uint64_t NumUnits(const TensorView& view);

// The format's version that a buffer claims, 0 where it does not begin as one.
int FormatVersion(const uint8_t* data, size_t num_bytes);

// Checks every rule that costs no decoding, the checksum included; on kOk fills `view`. Which sizes the matrix has is
// for the caller to compare with its tensors before it spends memory on them.
Status ParseTensor(const uint8_t* data, size_t num_bytes, TensorView* view);

// Decodes rows * cols elements into `out` and checks every remaining rule. `as` is the stored type, or float32 for a
// stored float16 (exact); kBadSizes otherwise. After an error the contents of `out` are undefined.
Status UnpackTensor(const TensorView& view, ElementType as, void* out);

// A codebook matrix as the kernels of fully connected layers read it: 8-bit gaps and 8-bit codes, a version-1 view.
// It takes EntriesBytes of the caller's memory, which the view points into (and into the buffer, for its codebook).
uint64_t EntriesBytes(const TensorView& view);
Status UnpackEntries(const TensorView& view, uint8_t* memory, PackedView* entries);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TENSOR_FORMAT_H_
