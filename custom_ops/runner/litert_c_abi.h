// The part of LiteRT's C interface that the runner needs, declared in our own words: wheels carry libLiteRt.so without
// its headers. These are the arguments of ai-edge-litert 2.1.6 to 2.3.
#ifndef KERAS_PRUNE_RUNNER_LITERT_C_ABI_H_
#define KERAS_PRUNE_RUNNER_LITERT_C_ABI_H_

#include <cstddef>
#include <cstdint>

namespace keras_prune {

using Handle = void*;  // of whatever LiteRT makes
using Status = int;    // 0: fine

constexpr int kHwCpu = 1;
constexpr size_t kBufferAlignment = 64;
constexpr int kMostDimensions = 8;

struct Layout {
  uint32_t rank_and_flags;  // 7 bits of rank, then: has strides
  int32_t dimensions[kMostDimensions];
  uint32_t strides[kMostDimensions];
};

struct TensorType {
  int32_t element;  // numbered as TfLiteType
  Layout layout;
};

static_assert(sizeof(TensorType) == 72, "not LiteRT's binary interface");

// Each is called LiteRt<name> in the library.
#define KERAS_PRUNE_LITERT_FUNCTIONS(F)                                                                              \
  F(CreateEnvironment, Status, (int num_options, const void* options, Handle* made))                                 \
  F(CreateOptions, Status, (Handle * made))                                                                          \
  F(SetOptionsHardwareAccelerators, Status, (Handle options, int accelerators))                                      \
  F(CreateModelFromFile, Status, (Handle environment, const char* path, Handle* made))                               \
  F(CreateCompiledModel, Status, (Handle environment, Handle model, Handle options, Handle* made))                   \
  F(GetModelSignature, Status, (Handle model, size_t index, Handle* found))                                          \
  F(GetSignatureSubgraph, Status, (Handle signature, Handle* found))                                                 \
  F(GetNumSubgraphInputs, Status, (Handle subgraph, size_t * count))                                                 \
  F(GetNumSubgraphOutputs, Status, (Handle subgraph, size_t * count))                                                \
  F(GetSubgraphInput, Status, (Handle subgraph, size_t index, Handle* tensor))                                       \
  F(GetSubgraphOutput, Status, (Handle subgraph, size_t index, Handle* tensor))                                      \
  F(GetRankedTensorType, Status, (Handle tensor, TensorType * type))                                                 \
  F(CompiledModelResizeInputTensorNonStrict, Status,                                                                 \
    (Handle compiled, size_t signature, size_t input, const int* dimensions, size_t rank))                           \
  F(GetCompiledModelOutputTensorLayouts, Status,                                                                     \
    (Handle compiled, size_t signature, size_t count, Layout* layouts, bool update))                                 \
  F(CreateTensorBufferFromHostMemory, Status,                                                                        \
    (const TensorType* type, void* memory, size_t num_bytes, void (*release)(void*), Handle* made))                  \
  F(RunCompiledModel, Status,                                                                                        \
    (Handle compiled, size_t signature, size_t num_inputs, Handle* inputs, size_t num_outputs, Handle* outputs))     \
  F(CreateAccelerator, Status, (Handle * made))                                                                      \
  F(SetAcceleratorGetName, Status, (Handle accelerator, Status (*get)(Handle, const char**)))                        \
  F(SetAcceleratorGetHardwareSupport, Status, (Handle accelerator, Status (*get)(Handle, int*)))                     \
  F(SetIsAcceleratorDelegateResponsibleForJitCompilation, Status,                                                    \
    (Handle accelerator, Status (*get)(Handle, bool*)))                                                              \
  F(SetDelegateFunction, Status,                                                                                     \
    (Handle accelerator, Status (*make)(Handle context, Handle environment, Handle accelerator, Handle options,      \
                                        Handle* wrapper)))                                                           \
  F(RegisterAccelerator, Status, (Handle environment, Handle accelerator, void* data, void (*release)(void*)))       \
  F(WrapDelegate, Status, (void* delegate, void (*destroy)(void*), Handle* wrapper))                                 \
  F(DestroyTensorBuffer, void, (Handle buffer))                                                                      \
  F(DestroyCompiledModel, void, (Handle compiled))                                                                   \
  F(DestroyModel, void, (Handle model))                                                                              \
  F(DestroyOptions, void, (Handle options))                                                                          \
  F(DestroyEnvironment, void, (Handle environment))

}  // namespace keras_prune

#endif  // KERAS_PRUNE_RUNNER_LITERT_C_ABI_H_
