// The part of the TFLite / LiteRT C interface that a delegate needs, declared in our own words: no wheel carries the
// runtime's headers. Field order and sizes are the binary interface from tflite-runtime 2.14 to ai-edge-litert 2.3;
// fields that are never touched have plain types of the same size. The runtimes only ever append fields.
#ifndef KERAS_PRUNE_TFLITE_TFLITE_C_ABI_H_
#define KERAS_PRUNE_TFLITE_TFLITE_C_ABI_H_

#include <cstddef>
#include <cstdint>

extern "C" {

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

enum TfLiteType {
  kTfLiteNoType = 0,
  kTfLiteFloat32 = 1,
  kTfLiteInt32 = 2,
  kTfLiteUInt8 = 3,
  kTfLiteInt8 = 9,
  kTfLiteFloat16 = 10
};

enum TfLiteAllocationType { kTfLiteMmapRo = 1, kTfLiteArenaRw = 2, kTfLiteDynamic = 4, kTfLitePersistentRo = 5 };

constexpr int kTfLiteOptionalTensor = -1;
constexpr int32_t kTfLiteBuiltinCustom = 32;
constexpr int64_t kTfLiteDelegateFlagsAllowDynamicTensors = 1;

// `size` ints follow the head; made by malloc, because the runtime frees what it takes over.
struct TfLiteIntArray {
  int size;
  int data[1];  // the first of `size`
};

struct TfLiteTensor {
  int32_t type;  // TfLiteType
  void* data;
  TfLiteIntArray* dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int32_t allocation_type;  // TfLiteAllocationType
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int32_t type;
    void* params;
  } quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
};

struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  void* delegate;
  bool might_have_side_effect;
};

struct TfLiteContext;
struct TfLiteDelegate;

// Passed by value, so its size is that of the newest runtime; older ones read a prefix. All that is not used is zero.
struct TfLiteRegistration {
  void* (*init)(TfLiteContext* context, const char* buffer, size_t length);
  void (*free)(TfLiteContext* context, void* buffer);
  TfLiteStatus (*prepare)(TfLiteContext* context, TfLiteNode* node);
  TfLiteStatus (*invoke)(TfLiteContext* context, TfLiteNode* node);
  const char* (*profiling_string)(const TfLiteContext* context, const TfLiteNode* node);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
};

// The head of the runtime's context; what comes after it is not used. The three about the plan work only while a
// delegate prepares or a delegate's kernel is initialised.
struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext* context, TfLiteIntArray** plan);
  TfLiteTensor* tensors;
  void* impl;
  // Takes new_size over.
  TfLiteStatus (*ResizeTensor)(TfLiteContext* context, TfLiteTensor* tensor, TfLiteIntArray* new_size);
  void (*ReportError)(TfLiteContext* context, const char* format, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext* context, int count, int* first_new_index);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext* context, int node_index, TfLiteNode** node,
                                         TfLiteRegistration** registration);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext* context, TfLiteRegistration registration,
                                                        const TfLiteIntArray* nodes, TfLiteDelegate* delegate);
  int recommended_num_threads;  // what the user asked for; -1: nothing
};

struct TfLiteDelegate {
  void* data;
  TfLiteStatus (*Prepare)(TfLiteContext* context, TfLiteDelegate* delegate);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
};

// What `init` of a delegate's kernel gets as its buffer.
struct TfLiteDelegateParams {
  TfLiteDelegate* delegate;
  TfLiteIntArray* nodes_to_replace;
  TfLiteIntArray* input_tensors;  // sorted by index: not in the order of the replaced node's inputs
  TfLiteIntArray* output_tensors;
};

}  // extern "C"

#if defined(__LP64__)
static_assert(sizeof(TfLiteRegistration) == 88 && sizeof(TfLiteTensor) == 112 && sizeof(TfLiteNode) == 80 &&
                  sizeof(TfLiteDelegate) == 56,
              "not the runtimes' binary interface");
static_assert(offsetof(TfLiteContext, recommended_num_threads) == 72, "not the runtimes' binary interface");
static_assert(offsetof(TfLiteTensor, bytes) == 40 && offsetof(TfLiteTensor, dims) == 16 &&
                  offsetof(TfLiteNode, custom_initial_data) == 48,
              "not the runtimes' binary interface");
#endif

#endif  // KERAS_PRUNE_TFLITE_TFLITE_C_ABI_H_
