// The part of TensorFlow's C kernel and op API that the op uses, declared in our own words: neither TensorFlow's
// headers nor its wheel is needed to build, and one binary serves TensorFlow 2.16 to 2.21.
// The documentation is in tensorflow/c/{ops,kernels,tf_tensor,tf_status}.h of TensorFlow.
#ifndef KERAS_PRUNE_TF_TF_C_API_H_
#define KERAS_PRUNE_TF_TF_C_API_H_

#include <cstddef>
#include <cstdint>

extern "C" {
// Opaque types of TensorFlow.
struct TF_Status;
struct TF_Tensor;
struct TF_OpDefinitionBuilder;
struct TF_ShapeInferenceContext;
struct TF_ShapeHandle;
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;

// Bytes that TensorFlow hands out.
struct TF_Buffer {
  const void* data;
  size_t length;
  void (*data_deallocator)(void* data, size_t length);
};

// Arguments of the calls below.
typedef void (*KpShapeFunction)(TF_ShapeInferenceContext*, TF_Status*);
typedef void* (*KpCreateFunction)(TF_OpKernelConstruction*);
typedef void (*KpComputeFunction)(void*, TF_OpKernelContext*);
typedef void (*KpDeleteFunction)(void*);
}

namespace keras_prune {

// Values of TF_Code and TF_DataType (enums of C, passed as int).
enum TfCode : int { kTfOk = 0, kTfInvalidArgument = 3, kTfResourceExhausted = 8 };
enum TfDataType : int { kTfFloat = 1, kTfUint8 = 4 };

// name, result, parameters: every function that the op calls.
#define KERAS_PRUNE_TF_API(F)                                                                                          \
  F(TF_NewStatus, TF_Status*, (void))                                                                                  \
  F(TF_DeleteStatus, void, (TF_Status*))                                                                               \
  F(TF_SetStatus, void, (TF_Status*, int code, const char* message))                                                   \
  F(TF_GetCode, int, (const TF_Status*))                                                                               \
  F(TF_Message, const char*, (const TF_Status*))                                                                       \
  F(TF_DeleteTensor, void, (TF_Tensor*))                                                                               \
  F(TF_TensorMaybeMove, TF_Tensor*, (TF_Tensor*))                                                                      \
  F(TF_TensorData, void*, (const TF_Tensor*))                                                                          \
  F(TF_TensorByteSize, size_t, (const TF_Tensor*))                                                                     \
  F(TF_TensorType, int, (const TF_Tensor*))                                                                            \
  F(TF_NumDims, int, (const TF_Tensor*))                                                                               \
  F(TF_Dim, int64_t, (const TF_Tensor*, int axis))                                                                     \
  F(TF_NewOpDefinitionBuilder, TF_OpDefinitionBuilder*, (const char* name))                                            \
  F(TF_OpDefinitionBuilderAddInput, void, (TF_OpDefinitionBuilder*, const char* spec))                                 \
  F(TF_OpDefinitionBuilderAddOutput, void, (TF_OpDefinitionBuilder*, const char* spec))                                \
  F(TF_OpDefinitionBuilderAddAttr, void, (TF_OpDefinitionBuilder*, const char* spec))                                  \
  F(TF_OpDefinitionBuilderSetShapeInferenceFunction, void, (TF_OpDefinitionBuilder*, KpShapeFunction))                 \
  F(TF_RegisterOpDefinition, void, (TF_OpDefinitionBuilder*, TF_Status*))                                              \
  F(TF_NewShapeHandle, TF_ShapeHandle*, (void))                                                                        \
  F(TF_DeleteShapeHandle, void, (TF_ShapeHandle*))                                                                     \
  F(TF_ShapeInferenceContextGetInput, void, (TF_ShapeInferenceContext*, int index, TF_ShapeHandle*, TF_Status*))       \
  F(TF_ShapeInferenceContextSetOutput, void, (TF_ShapeInferenceContext*, int index, TF_ShapeHandle*, TF_Status*))      \
  F(TF_ShapeInferenceContextRankKnown, int, (TF_ShapeInferenceContext*, TF_ShapeHandle*))                              \
  F(TF_ShapeInferenceContextRank, int64_t, (TF_ShapeInferenceContext*, TF_ShapeHandle*))                               \
  F(TF_ShapeInferenceContextSubshape, void,                                                                            \
    (TF_ShapeInferenceContext*, TF_ShapeHandle*, int64_t start, int64_t end, TF_ShapeHandle* result, TF_Status*))      \
  F(TF_ShapeInferenceContextSetUnknownShape, void, (TF_ShapeInferenceContext*, TF_Status*))                            \
  F(TF_ShapeInferenceContextVectorFromSize, TF_ShapeHandle*, (TF_ShapeInferenceContext*, size_t size))                 \
  F(TF_ShapeInferenceContextConcatenateShapes, void,                                                                   \
    (TF_ShapeInferenceContext*, TF_ShapeHandle*, TF_ShapeHandle*, TF_ShapeHandle* result, TF_Status*))                 \
  F(TF_NewKernelBuilder, TF_KernelBuilder*,                                                                            \
    (const char* op, const char* device, KpCreateFunction, KpComputeFunction, KpDeleteFunction))                       \
  F(TF_GetRegisteredKernelsForOp, TF_Buffer*, (const char* op, TF_Status*))                                            \
  F(TF_DeleteBuffer, void, (TF_Buffer*))                                                                               \
  F(TF_RegisterKernelBuilder, void, (const char* name, TF_KernelBuilder*, TF_Status*))                                 \
  F(TF_OpKernelConstruction_GetAttrBool, void,                                                                         \
    (TF_OpKernelConstruction*, const char* name, unsigned char* value, TF_Status*))                                    \
  F(TF_OpKernelConstruction_GetAttrInt64, void,                                                                        \
    (TF_OpKernelConstruction*, const char* name, int64_t* value, TF_Status*))                                          \
  F(TF_OpKernelConstruction_GetAttrFloat, void,                                                                        \
    (TF_OpKernelConstruction*, const char* name, float* value, TF_Status*))                                            \
  F(TF_OpKernelConstruction_GetAttrString, void,                                                                       \
    (TF_OpKernelConstruction*, const char* name, char* value, size_t max_length, TF_Status*))                          \
  F(TF_OpKernelConstruction_Failure, void, (TF_OpKernelConstruction*, TF_Status*))                                     \
  F(TF_OpKernelContext_Failure, void, (TF_OpKernelContext*, TF_Status*))                                               \
  F(TF_GetInput, void, (TF_OpKernelContext*, int index, TF_Tensor** tensor, TF_Status*))                               \
  F(TF_AllocateOutput, TF_Tensor*,                                                                                     \
    (TF_OpKernelContext*, int index, int dtype, const int64_t* dims, int num_dims, size_t num_bytes, TF_Status*))

// The functions as pointers, filled by LoadTfApi; called as tf.TF_NewStatus().
struct TfApi {
#define KERAS_PRUNE_DECLARE(name, result, parameters) result(*name) parameters;
  KERAS_PRUNE_TF_API(KERAS_PRUNE_DECLARE)
#undef KERAS_PRUNE_DECLARE
};
extern TfApi tf;

// Finds every function in the TensorFlow of this process. Returns null, or the name of one that is missing.
const char* LoadTfApi();

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_TF_C_API_H_
