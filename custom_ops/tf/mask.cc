// The TensorFlow op KerasPruneMask: y = mask ? w : 0, in one pass; what holds pruned weights at zero while training.
#include <cinttypes>
#include <cstdlib>

#include "../kernels/mask.h"
#include "call.h"

namespace keras_prune {
namespace {

constexpr char kOpName[] = "KerasPruneMask";
constexpr int kMaxRank = 254;  // of TensorFlow's tensors

bool CheckMaskInputs(const TF_Tensor* w, const TF_Tensor* mask, TF_Status* status) {
  if (tf.TF_TensorType(w) != kTfFloat || tf.TF_TensorType(mask) != kTfUint8) {
    return FailCall(status, kTfInvalidArgument, kOpName,
                    "expected w of type float32 and mask of type uint8, got types %d and %d; cast them",
                    tf.TF_TensorType(w), tf.TF_TensorType(mask));
  }
  bool same = tf.TF_NumDims(w) == tf.TF_NumDims(mask) && tf.TF_NumDims(w) <= kMaxRank;
  for (int i = 0; same && i < tf.TF_NumDims(w); ++i) same = tf.TF_Dim(w, i) == tf.TF_Dim(mask, i);
  return same || FailCall(status, kTfInvalidArgument, kOpName,
                          "expected w and mask of one shape, got rank %d and %d, %zu and %zu values",
                          tf.TF_NumDims(w), tf.TF_NumDims(mask), tf.TF_TensorByteSize(w) / sizeof(float),
                          tf.TF_TensorByteSize(mask));
}

bool MaskInputs(Isa isa, TF_OpKernelContext* context, TF_Status* status) {
  Tensor w, mask, y;
  tf.TF_GetInput(context, 0, &w.tensor, status);
  if (tf.TF_GetCode(status) != kTfOk) return false;
  tf.TF_GetInput(context, 1, &mask.tensor, status);
  if (tf.TF_GetCode(status) != kTfOk || !CheckMaskInputs(w.tensor, mask.tensor, status)) return false;
  const int rank = tf.TF_NumDims(w.tensor);
  int64_t shape[kMaxRank];
  for (int i = 0; i < rank; ++i) shape[i] = tf.TF_Dim(w.tensor, i);
  const size_t num_bytes = tf.TF_TensorByteSize(w.tensor);
  y.tensor = tf.TF_AllocateOutput(context, 0, kTfFloat, shape, rank, num_bytes, status);
  if (tf.TF_GetCode(status) != kTfOk) return false;
  ApplyMask(isa, static_cast<const float*>(tf.TF_TensorData(w.tensor)),
            static_cast<const uint8_t*>(tf.TF_TensorData(mask.tensor)), num_bytes / sizeof(float),
            static_cast<float*>(tf.TF_TensorData(y.tensor)));
  return true;
}

void ComputeMask(void* isa, TF_OpKernelContext* context) {
  CallStatus call;
  if (!MaskInputs(*static_cast<const Isa*>(isa), context, call.status)) {
    tf.TF_OpKernelContext_Failure(context, call.status);
  }
}

void* CreateMask(TF_OpKernelConstruction* construction) {
  bool isa_ok = false;
  const Isa selected = SelectIsa(&isa_ok);
  auto* isa = isa_ok ? static_cast<Isa*>(malloc(sizeof(Isa))) : nullptr;
  if (isa != nullptr) {
    *isa = selected;
    return isa;
  }
  CallStatus call;
  FailCall(call.status, isa_ok ? kTfResourceExhausted : kTfInvalidArgument, kOpName, "%s",
           isa_ok ? "out of memory" : kUnknownIsa);
  tf.TF_OpKernelConstruction_Failure(construction, call.status);
  return nullptr;
}

void DeleteMask(void* isa) { free(isa); }

// y has the shape of w.
void InferMaskShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = tf.TF_NewShapeHandle();
  tf.TF_ShapeInferenceContextGetInput(context, 0, shape, status);
  if (tf.TF_GetCode(status) == kTfOk) tf.TF_ShapeInferenceContextSetOutput(context, 0, shape, status);
  tf.TF_DeleteShapeHandle(shape);
}

bool RegisterMaskOp(TF_Status* status) {
  TF_OpDefinitionBuilder* op = tf.TF_NewOpDefinitionBuilder(kOpName);
  tf.TF_OpDefinitionBuilderAddInput(op, "w: float32");
  tf.TF_OpDefinitionBuilderAddInput(op, "mask: uint8");
  tf.TF_OpDefinitionBuilderAddOutput(op, "y: float32");
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, InferMaskShape);
  tf.TF_RegisterOpDefinition(op, status);
  return tf.TF_GetCode(status) == kTfOk;
}

__attribute__((constructor)) void Register() {
  RegisterOpAndKernel({kOpName, RegisterMaskOp, CreateMask, ComputeMask, DeleteMask});
}

}  // namespace
}  // namespace keras_prune
