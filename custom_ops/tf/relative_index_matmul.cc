// The TensorFlow op KerasPruneRelativeIndexMatmul: y = x * W on packed weights, or dx = dy * W^T with transpose = true.
// W is the Keras kernel (inputs, outputs); `packed` holds its transpose, (rows, cols) = (outputs, inputs). All
// dimensions of x but the last are batch.
//
// With activations = "int8" each row of x is quantized to int8, as the delegate's operator does it, and so is the
// codebook; x_scale is one step of x for all rows, or 0 for each row's own. With transpose = true dy stays float32 and
// W is the one that was multiplied by: the gradient goes straight through the rounding of x.
//
// To build: this folder's, custom_ops/kernels' and custom_ops/'s *.cc as position-independent C++17, linked with
//   c++ -shared ... -nodefaultlibs -lc -ldl -lgcc -Wl,--no-undefined
// Nothing of TensorFlow is needed, neither headers nor libraries: its functions are looked up in the process that loads
// this library (tf_c_api.cc), from Python (tf.load_op_library) or C++ (TF_LoadLibrary). A host that links this
// op into its own binary compiles with -DKERAS_PRUNE_TF_LINKED.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../kernels/fully_connected.h"
#include "call.h"
#include "layout_cache.h"
#include "threads.h"
#include "workspace.h"

namespace keras_prune {
namespace {

constexpr char kOpName[] = "KerasPruneRelativeIndexMatmul";
constexpr int kMaxRank = 254;  // of TensorFlow's tensors

struct Kernel {
  bool transpose;
  Activations activations;
  float x_scale;  // of int8 activations: one step of x; 0: of each row's largest value
  int64_t rows;   // as the caller expects them in the packed bytes; -1: any
  int64_t cols;
};

// A macro, so that the compiler checks the format.
#define KP_FAIL(status, code, ...) FailCall(status, code, "relative_index_matmul", __VA_ARGS__)

bool CheckInputs(const TF_Tensor* x, const TF_Tensor* packed, TF_Status* status) {
  if (tf.TF_NumDims(x) < 2 || tf.TF_NumDims(x) > kMaxRank || tf.TF_TensorType(x) != kTfFloat) {
    return KP_FAIL(status, kTfInvalidArgument,
                "expected x of shape (batch, size) or (..., size) and type float32, got rank %d and type %d; reshape "
                "or cast it",
                tf.TF_NumDims(x), tf.TF_TensorType(x));
  }
  if (tf.TF_NumDims(packed) != 1 || tf.TF_TensorType(packed) != kTfUint8) {
    return KP_FAIL(status, kTfInvalidArgument,
                "expected packed of shape (num_bytes,) and type uint8, got rank %d and type %d; pass what "
                "pack_weights returned",
                tf.TF_NumDims(packed), tf.TF_TensorType(packed));
  }
  return true;
}

int64_t LastDim(const TF_Tensor* x) { return tf.TF_Dim(x, tf.TF_NumDims(x) - 1); }

// The product of all dimensions but the last; a tensor has fewer than 2^63 values.
int64_t BatchOf(const TF_Tensor* x) {
  int64_t batch = 1;
  for (int i = 0; i + 1 < tf.TF_NumDims(x); ++i) batch *= tf.TF_Dim(x, i);
  return batch;
}

// "(2, 3, 7)"; cut where there are very many dimensions.
struct ShapeText {
  char text[96];
  explicit ShapeText(const TF_Tensor* x) {
    size_t used = 0;
    for (int i = 0; i < tf.TF_NumDims(x) && used + 24 < sizeof text; ++i) {
      used += snprintf(text + used, sizeof text - used, "%s%" PRId64, i == 0 ? "(" : ", ", tf.TF_Dim(x, i));
    }
    snprintf(text + used, sizeof text - used, ")");
  }
};

bool CheckSizes(const Kernel& kernel, int64_t rows, int64_t cols, const TF_Tensor* x, TF_Status* status) {
  if ((kernel.rows >= 0 && kernel.rows != rows) || (kernel.cols >= 0 && kernel.cols != cols)) {
    return KP_FAIL(status, kTfInvalidArgument,
                "expected packed weights of %" PRId64 " units and %" PRId64 " inputs (-1: any), got %" PRId64
                " and %" PRId64 "; pass the bytes of this layer",
                kernel.rows, kernel.cols, rows, cols);
  }
  const int64_t expected = kernel.transpose ? rows : cols;
  if (LastDim(x) != expected) {
    return KP_FAIL(status, kTfInvalidArgument,
                "expected x of shape (batch, %" PRId64 ") for packed weights of %" PRId64 " units and %" PRId64
                " inputs with transpose = %s, got %s; check the layer before this one",
                expected, rows, cols, kernel.transpose ? "true" : "false", ShapeText(x).text);
  }
  const int64_t result = kernel.transpose ? cols : rows;
  if (BatchOf(x) > INT64_MAX / (result * static_cast<int64_t>(sizeof(float)))) {
    return KP_FAIL(status, kTfInvalidArgument, "a batch of %" PRId64 " is too large; split it", BatchOf(x));
  }
  return true;
}

// x tells one side of W; the other must be said where decoding spends memory on it.
bool CheckBothKnown(const Kernel& kernel, TF_Status* status) {
  if ((kernel.transpose ? kernel.cols : kernel.rows) >= 0) return true;
  return KP_FAIL(status, kTfInvalidArgument,
                 "expected the number of %s with packed weights of version 2, got -1 (any); pass %s (the attribute %s)",
                 kernel.transpose ? "inputs" : "units", kernel.transpose ? "input_dim" : "units",
                 kernel.transpose ? "cols" : "rows");
}

// One call's expectations, for AcquireLayout.
struct Expected {
  const Kernel& kernel;
  const TF_Tensor* x;
  TF_Status* status;
  static bool Accept(void* caller, uint32_t rows, uint32_t cols, bool is_coded) {
    const auto& expected = *static_cast<const Expected*>(caller);
    return CheckSizes(expected.kernel, rows, cols, expected.x, expected.status) &&
           (!is_coded || CheckBothKnown(expected.kernel, expected.status));
  }
};

bool Forward(const FcLayout* layout, FcCall call, TF_Status* status) {
  const Computing computing;
  const size_t batch = call.batch;
  if (FcThreads(layout, batch, 2) > 1) call.workers = computing.workers();
  const size_t num_bytes = FcWorkspaceBytes(layout, batch, NumThreads(call.workers));
  const Workspace workspace(num_bytes);
  call.workspace = workspace.data();
  if (num_bytes != 0 && call.workspace == nullptr) {
    return KP_FAIL(status, kTfResourceExhausted, "out of memory for the activations of a batch of %" PRId64 "; split it",
                   static_cast<int64_t>(batch));
  }
  FcForward(layout, call);
  return true;
}

// Computes; false with `status` set on an error. The sizes fit.
bool Multiply(const Kernel& kernel, const FcLayout* layout, const TF_Tensor* x, TF_OpKernelContext* context,
              TF_Status* status) {
  const int rank = tf.TF_NumDims(x);
  const int64_t batch = BatchOf(x), size = kernel.transpose ? FcCols(layout) : FcRows(layout);
  int64_t shape[kMaxRank];
  for (int i = 0; i + 1 < rank; ++i) shape[i] = tf.TF_Dim(x, i);
  shape[rank - 1] = size;
  const size_t num_bytes = static_cast<size_t>(batch) * static_cast<size_t>(size) * sizeof(float);
  Tensor y;
  y.tensor = tf.TF_AllocateOutput(context, 0, kTfFloat, shape, rank, num_bytes, status);
  if (tf.TF_GetCode(status) != kTfOk) return false;
  if (num_bytes == 0) return true;
  const float* from = static_cast<const float*>(tf.TF_TensorData(x));
  float* to = static_cast<float*>(tf.TF_TensorData(y.tensor));
  if (!kernel.transpose) {
    return Forward(layout, {from, static_cast<size_t>(batch), nullptr, -HUGE_VALF, HUGE_VALF, to, kernel.x_scale},
                   status);
  }
  FcBackward(layout, from, static_cast<size_t>(batch), to);
  return true;
}

bool ComputeChecked(const Kernel& kernel, TF_OpKernelContext* context, TF_Status* status) {
  Tensor x, packed;
  tf.TF_GetInput(context, 0, &x.tensor, status);
  if (tf.TF_GetCode(status) != kTfOk) return false;
  tf.TF_GetInput(context, 1, &packed.tensor, status);
  if (tf.TF_GetCode(status) != kTfOk) return false;
  if (!CheckInputs(x.tensor, packed.tensor, status)) return false;
  Expected expected = {kernel, x.tensor, status};
  const size_t batch = kernel.transpose ? kAnyBatch : static_cast<size_t>(BatchOf(x.tensor));
  const LayoutLookup found = AcquireLayout(packed.Take(), {kernel.activations, batch}, {Expected::Accept, &expected});
  if (found.shared == nullptr && found.error == nullptr) return false;
  if (found.shared == nullptr) {
    return KP_FAIL(status, found.out_of_memory ? kTfResourceExhausted : kTfInvalidArgument, "%s", found.error);
  }
  const bool ok = CheckSizes(kernel, FcRows(found.layout), FcCols(found.layout), x.tensor, status) &&
                  Multiply(kernel, found.layout, x.tensor, context, status);
  ReleaseLayout(found.shared);
  return ok;
}

void Compute(void* kernel, TF_OpKernelContext* context) {
  CallStatus call;
  if (!ComputeChecked(*static_cast<const Kernel*>(kernel), context, call.status)) {
    tf.TF_OpKernelContext_Failure(context, call.status);
  }
}

// The kernels take smaller steps for the smallest normal float, but TensorFlow's threads take those for zero.
float NormalStep(float step) {
  uint32_t bits;
  memcpy(&bits, &step, sizeof bits);
  return bits != 0 && bits < 0x00800000u ? __FLT_MIN__ : step;
}

bool CheckAttributes(const Kernel& kernel, TF_Status* status) {
  if (kernel.rows < -1 || kernel.rows == 0 || kernel.cols < -1 || kernel.cols == 0) {
    return KP_FAIL(status, kTfInvalidArgument, "expected rows and cols of at least 1, or -1 for any, got %" PRId64
         " and %" PRId64 "; pass the layer's units and inputs", kernel.rows, kernel.cols);
  }
  const bool is_int8 = kernel.activations == Activations::kInt8;
  const bool is_step = is_int8 && kernel.x_scale > 0.0f && kernel.x_scale <= __FLT_MAX__;
  if (kernel.x_scale != 0.0f && !is_step) {
    return KP_FAIL(status, kTfInvalidArgument,
                   "expected x_scale above 0 with activations int8, or 0 for none, got %g; pass the step of x from "
                   "calibration",
                   static_cast<double>(kernel.x_scale));
  }
  return true;
}

bool ReadAttributes(TF_OpKernelConstruction* construction, Kernel* kernel, TF_Status* status) {
  unsigned char transpose = 0;
  char activations[16] = {};
  tf.TF_OpKernelConstruction_GetAttrBool(construction, "transpose", &transpose, status);
  const auto ok = [status] { return tf.TF_GetCode(status) == kTfOk; };
  if (ok()) tf.TF_OpKernelConstruction_GetAttrInt64(construction, "rows", &kernel->rows, status);
  if (ok()) tf.TF_OpKernelConstruction_GetAttrInt64(construction, "cols", &kernel->cols, status);
  if (ok()) {
    tf.TF_OpKernelConstruction_GetAttrString(construction, "activations", activations, sizeof activations - 1, status);
  }
  if (ok()) tf.TF_OpKernelConstruction_GetAttrFloat(construction, "x_scale", &kernel->x_scale, status);
  if (!ok()) return false;
  kernel->transpose = transpose != 0;  // TensorFlow has compared the string with the two that the op allows
  kernel->activations = strcmp(activations, "int8") == 0 ? Activations::kInt8 : Activations::kFloat32;
  kernel->x_scale = NormalStep(kernel->x_scale);
  return CheckAttributes(*kernel, status);
}

void* Create(TF_OpKernelConstruction* construction) {
  CallStatus call;
  Kernel attributes = {};
  Kernel* kernel = nullptr;
  if (ReadAttributes(construction, &attributes, call.status)) {
    kernel = static_cast<Kernel*>(malloc(sizeof(Kernel)));
    if (kernel == nullptr) KP_FAIL(call.status, kTfResourceExhausted, "out of memory");
  }
  if (kernel == nullptr) {
    tf.TF_OpKernelConstruction_Failure(construction, call.status);
    return nullptr;
  }
  *kernel = attributes;
  return kernel;
}

void Delete(void* kernel) {
  free(kernel);
  ReleaseUnused();
  ReleaseSpareWorkspaces();
}

// A shape of TensorFlow's shape inference.
struct Shape {
  TF_ShapeHandle* handle;
  explicit Shape(TF_ShapeHandle* owned) : handle(owned) {}
  ~Shape() { tf.TF_DeleteShapeHandle(handle); }
  Shape(const Shape&) = delete;
  Shape& operator=(const Shape&) = delete;
};

// Sets *rank, -1 when unknown.
void InputRank(TF_ShapeInferenceContext* context, int index, const Shape& shape, int64_t* rank, TF_Status* status) {
  *rank = -1;
  tf.TF_ShapeInferenceContextGetInput(context, index, shape.handle, status);
  if (tf.TF_GetCode(status) != kTfOk) return;
  if (tf.TF_ShapeInferenceContextRankKnown(context, shape.handle)) {
    *rank = tf.TF_ShapeInferenceContextRank(context, shape.handle);
  }
}

// (..., ?): the C API gives shape functions no integer attributes, so Python sets the last dimension where it is known.
void InferShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  constexpr size_t kUnknown = static_cast<size_t>(-1);  // as int64 TensorFlow's mark of an unknown dimension
  const Shape x(tf.TF_NewShapeHandle()), packed(tf.TF_NewShapeHandle()), y(tf.TF_NewShapeHandle());
  int64_t x_rank = -1, packed_rank = -1;
  InputRank(context, 0, x, &x_rank, status);
  if (tf.TF_GetCode(status) == kTfOk) InputRank(context, 1, packed, &packed_rank, status);
  if (tf.TF_GetCode(status) != kTfOk) return;
  if (x_rank == 0 || x_rank == 1 || (packed_rank != -1 && packed_rank != 1)) {
    KP_FAIL(status, kTfInvalidArgument,
         "expected x of rank 2 or more and packed of rank 1, got %" PRId64 " and %" PRId64
         " (-1: unknown); reshape them",
         x_rank, packed_rank);
    return;
  }
  if (x_rank == -1) return tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
  const Shape last(tf.TF_ShapeInferenceContextVectorFromSize(context, kUnknown)), batch(tf.TF_NewShapeHandle());
  tf.TF_ShapeInferenceContextSubshape(context, x.handle, 0, -1, batch.handle, status);
  if (tf.TF_GetCode(status) != kTfOk) return;
  tf.TF_ShapeInferenceContextConcatenateShapes(context, batch.handle, last.handle, y.handle, status);
  if (tf.TF_GetCode(status) == kTfOk) tf.TF_ShapeInferenceContextSetOutput(context, 0, y.handle, status);
}

bool RegisterOp(TF_Status* status) {
  TF_OpDefinitionBuilder* op = tf.TF_NewOpDefinitionBuilder(kOpName);
  tf.TF_OpDefinitionBuilderAddInput(op, "x: float32");
  tf.TF_OpDefinitionBuilderAddInput(op, "packed: uint8");
  tf.TF_OpDefinitionBuilderAddOutput(op, "y: float32");
  tf.TF_OpDefinitionBuilderAddAttr(op, "transpose: bool = false");
  tf.TF_OpDefinitionBuilderAddAttr(op, "rows: int = -1");
  tf.TF_OpDefinitionBuilderAddAttr(op, "cols: int = -1");
  tf.TF_OpDefinitionBuilderAddAttr(op, "activations: {'float32', 'int8'} = 'float32'");
  tf.TF_OpDefinitionBuilderAddAttr(op, "x_scale: float = 0.0");
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, InferShape);
  tf.TF_RegisterOpDefinition(op, status);
  return tf.TF_GetCode(status) == kTfOk;
}

__attribute__((constructor)) void Register() {
  RegisterOpAndKernel({kOpName, RegisterOp, Create, Compute, Delete});
}

}  // namespace
}  // namespace keras_prune

// For hosts: at most this many threads for a call, as TensorFlow was given for its own kernels; 0: as it does by itself.
// Python calls it when it loads the library.
extern "C" __attribute__((visibility("default"))) void KerasPruneTfSetNumThreads(int num_threads) {
  keras_prune::SetNumThreads(num_threads);
}

// For tests: for how many contents layouts were made since the library was loaded, and how many buffers the cache holds.
extern "C" __attribute__((visibility("default"))) void KerasPruneTfCacheCounts(int64_t* layouts_made,
                                                                              int64_t* entries) {
  keras_prune::CacheCounts(layouts_made, entries);
}
