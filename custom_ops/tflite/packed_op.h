// What the operators that compute on packed weights share: tensors, arithmetic, layout and memory.
#ifndef KERAS_PRUNE_TFLITE_PACKED_OP_H_
#define KERAS_PRUNE_TFLITE_PACKED_OP_H_

#include "../kernels/fully_connected.h"
#include "../tensor_format.h"
#include "checks.h"
#include "shared.h"

namespace keras_prune {

// One operator of the file, and its layout once it is prepared.
struct PackedOp {
  const char* name;  // of the operator, for errors
  Shared* shared;    // with the delegate's other operators
  int num_inputs, num_outputs;
  int x, packed, bias, y;  // tensor indices; bias may be kTfLiteOptionalTensor
  Activations activations;
  float x_scale;  // of int8 activations; 0: of each row
  float low, high;
  FcLayout* layout;
  const void* layout_data;  // the packed bytes that the layout was made from
  size_t layout_bytes;
  FcOptions made_for;
  Workers* workers;  // null: the caller's thread alone
  void* workspace;
  size_t workspace_bytes;
};

// From version 1's byte for the arithmetic; version 2 is int8 with one step of x in the options.
enum Arithmetic : uint8_t { kFloat32, kInt8Dynamic };
constexpr uint8_t kPlainOptions = 1, kStaticOptions = 2;

// The one node that a registration's `init` stands for, or null; fills the head of a zeroed operator.
const TfLiteNode* ReadNode(TfLiteContext* context, const char* buffer, const char* name, PackedOp* op);
void FreeOp(PackedOp* op);

// Each reports what is wrong.
TfLiteStatus CheckTensorIndices(TfLiteContext* context, const PackedOp& op);
TfLiteStatus ReadActivation(TfLiteContext* context, PackedOp* op, uint8_t number);
TfLiteStatus ReadArithmetic(TfLiteContext* context, PackedOp* op, uint8_t number);
TfLiteStatus ReadStaticScale(TfLiteContext* context, PackedOp* op, const uint8_t* bytes);
TfLiteStatus CheckBias(TfLiteContext* context, const PackedOp& op, uint32_t rows);
TfLiteStatus CheckOutput(TfLiteContext* context, const PackedOp& op, uint32_t rows);
// Few bytes may stand for many weights: the tensors must confirm the rows.
TfLiteStatus CheckRowsDeclared(TfLiteContext* context, const PackedOp& op);

// A buffer of version 2 with a codebook; then its layout, of the entries that are decoded first.
TfLiteStatus ParseCodebook(TfLiteContext* context, const PackedOp& op, TensorView* view);
TfLiteStatus DecodeLayout(TfLiteContext* context, PackedOp* op, const TensorView& view, const FcOptions& wanted);

// Makes the layout unless it is there already for these bytes and this kind of batch: prepare runs again at every
// resize. `check(context, op, rows, cols)` compares what the tensors' shapes tell with what the packed bytes claim,
// before memory is spent on it; `wanted(op)` counts after that; `make(context, op)` also checks.
template <typename Op, typename Check, typename Wanted, typename Make>
TfLiteStatus MakeLayout(TfLiteContext* context, Op* op, Check&& check, Wanted&& wanted, Make&& make) {
  const TfLiteTensor& t = context->tensors[op->packed];
  if (op->layout != nullptr && op->layout_data == t.data && op->layout_bytes == t.bytes) {
    if (check(context, op, FcRows(op->layout), FcCols(op->layout)) != kTfLiteOk) return kTfLiteError;
    if (FcSameLayout(op->made_for, wanted(*op))) return kTfLiteOk;
  }
  FreeFcLayout(op->layout);
  op->layout = nullptr;
  const TfLiteStatus status = make(context, op);
  op->layout_data = t.data;
  op->layout_bytes = t.bytes;
  op->made_for = wanted(*op);
  return status;
}

// The threads that pay for `batch` rows. What the interpreter is told about threads between two calls counts when it is
// prepared again, as with XNNPACK.
int FindWorkers(const TfLiteContext* context, PackedOp* op, size_t batch);
// Refuses what no memory has room for.
TfLiteStatus ResizeWorkspace(TfLiteContext* context, PackedOp* op, uint64_t needed);

// The tensors' memory and all else that a call needs.
TfLiteStatus MakeCall(TfLiteContext* context, const PackedOp& op, size_t batch, FcCall* call);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_PACKED_OP_H_
