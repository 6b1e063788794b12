#include "packed_fc.h"

#include <limits.h>
#include <stdlib.h>

#include "packed_op.h"

namespace keras_prune {
namespace {

constexpr uint8_t kKeepNumDims = 1;
constexpr uint8_t kInt8Static = 2;  // of version 1: what version 2 says with 8 bytes

struct PackedFc : PackedOp {
  Options options;
  bool keep_num_dims;
  size_t batch;
};

#define KP_REQUIRE(condition, ...) KP_CHECK(condition, "KerasPruneFullyConnected: " __VA_ARGS__)

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  auto* op = static_cast<PackedFc*>(calloc(1, sizeof(PackedFc)));
  const TfLiteNode* node = op != nullptr ? ReadNode(context, buffer, kPackedFcName, op) : nullptr;
  if (node == nullptr) {
    free(op);
    return nullptr;  // reported by Prepare
  }
  op->options = ReadOptions(*node);
  return op;
}

void Free(TfLiteContext*, void* buffer) { FreeOp(static_cast<PackedFc*>(buffer)); }

// Once the batch is known.
FcOptions WantedLayout(const PackedFc& op) { return {op.shared->isa, op.activations, op.batch}; }

TfLiteStatus ReadPlainOptions(TfLiteContext* context, PackedFc* op) {
  const uint8_t* o = op->options.bytes;
  if (ReadActivation(context, op, o[1]) != kTfLiteOk) return kTfLiteError;
  KP_REQUIRE((o[2] & ~kKeepNumDims) == 0, "unknown flags %d; install a keras_prune that reads them", o[2]);
  op->keep_num_dims = (o[2] & kKeepNumDims) != 0;
  const bool is_static = o[3] == kInt8Static;
  KP_REQUIRE((op->options.size == kMostOptionsBytes) == is_static,
             "expected %d bytes of options for arithmetic %d, got %d; export again",
             is_static ? kMostOptionsBytes : kOptionsBytes, o[3], op->options.size);
  return is_static ? ReadStaticScale(context, op, o + 8) : ReadArithmetic(context, op, o[3]);
}

// Version 2: as short as version 1, so that libraries that know only that one say which version they need.
TfLiteStatus ReadStaticOptions(TfLiteContext* context, PackedFc* op) {
  const uint8_t* o = op->options.bytes;
  KP_REQUIRE(o[1] >> 3 == 0, "unknown flags %d; install a keras_prune that reads them", o[1]);
  op->keep_num_dims = (o[1] >> 2 & 1) != 0;
  const TfLiteStatus status = ReadActivation(context, op, o[1] & 3);
  return status == kTfLiteOk ? ReadStaticScale(context, op, o + 4) : status;
}

TfLiteStatus ReadFcOptions(TfLiteContext* context, PackedFc* op) {
  if (CheckOptions(context, kPackedFcName, op->options, kStaticOptions) != kTfLiteOk) return kTfLiteError;
  return op->options.bytes[0] == kStaticOptions ? ReadStaticOptions(context, op) : ReadPlainOptions(context, op);
}

// Checks the activations and counts their rows.
TfLiteStatus CountBatch(TfLiteContext* context, PackedFc* op, uint32_t cols) {
  const TfLiteTensor& t = context->tensors[op->x];
  KP_REQUIRE(t.type == kTfLiteFloat32, "input %s: expected float32, got type %d; feed float32 activations", NameOf(t),
             t.type);
  KP_REQUIRE(t.dims != nullptr && t.dims->size >= 1, "input %s: expected rank 1 or more, got a scalar", NameOf(t));
  constexpr uint64_t kMostValues = PTRDIFF_MAX / sizeof(float);
  uint64_t values = 1;
  for (int i = 0; i < t.dims->size; ++i) {
    KP_REQUIRE(t.dims->data[i] >= 0, "input %s: dimension %d is %d; resize the input first", NameOf(t), i,
               t.dims->data[i]);
    const bool counted = !__builtin_mul_overflow(values, static_cast<uint64_t>(t.dims->data[i]), &values);
    KP_REQUIRE(counted && values <= kMostValues, "input %s: too large", NameOf(t));
  }
  const int last = t.dims->data[t.dims->size - 1];
  const bool fits = op->keep_num_dims ? static_cast<uint32_t>(last) == cols : values % cols == 0;
  KP_REQUIRE(fits,
             "input %s: expected %u values in a row as the packed weights have columns, got a last dimension of %d",
             NameOf(t), cols, last);
  op->batch = static_cast<size_t>(values / cols);
  return kTfLiteOk;
}

// Everything that the tensors' shapes tell is compared with what the packed bytes claim, before memory is spent on it.
TfLiteStatus CheckShapes(TfLiteContext* context, PackedFc* op, uint32_t rows, uint32_t cols) {
  TfLiteStatus status = CheckBias(context, *op, rows);
  if (status == kTfLiteOk) status = CountBatch(context, op, cols);
  if (status == kTfLiteOk) status = CheckOutput(context, *op, rows);
  if (status != kTfLiteOk) return status;
  KP_REQUIRE(op->batch <= INT_MAX, "an output of %u columns and more than %d rows is too large for the runtime", rows,
             INT_MAX);
  KP_REQUIRE(op->batch <= PTRDIFF_MAX / sizeof(float) / rows,
             "an output of %u columns and %d rows is too large; take a smaller batch", rows,
             static_cast<int>(op->batch));
  return kTfLiteOk;
}

// Version 1 is read by the kernels as it is.
TfLiteStatus MakeLayoutOfVersion1(TfLiteContext* context, PackedFc* op) {
  const TfLiteTensor& t = context->tensors[op->packed];
  PackedView view;
  Status status = ParsePacked(static_cast<const uint8_t*>(t.data), t.bytes, &view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  if (CheckShapes(context, op, view.rows, view.cols) != kTfLiteOk) return kTfLiteError;
  status = MakeFcLayout(view, WantedLayout(*op), &op->layout);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  return kTfLiteOk;
}

TfLiteStatus MakeLayoutOfVersion2(TfLiteContext* context, PackedFc* op) {
  TensorView view;
  TfLiteStatus status = ParseCodebook(context, *op, &view);
  if (status == kTfLiteOk) status = CheckShapes(context, op, view.rows, view.cols);
  if (status == kTfLiteOk) status = CheckRowsDeclared(context, *op);
  return status == kTfLiteOk ? DecodeLayout(context, op, view, WantedLayout(*op)) : status;
}

TfLiteStatus MakeLayoutOfBytes(TfLiteContext* context, PackedFc* op) {
  const TfLiteTensor& t = context->tensors[op->packed];
  const bool is_version_2 = FormatVersion(static_cast<const uint8_t*>(t.data), t.bytes) == 2;
  return is_version_2 ? MakeLayoutOfVersion2(context, op) : MakeLayoutOfVersion1(context, op);
}

// [batch, rows], or with kept dimensions the input's shape with `rows` for the last.
TfLiteStatus ResizeOutput(TfLiteContext* context, const PackedFc& op) {
  const TfLiteIntArray& in = *context->tensors[op.x].dims;
  const bool keep = op.keep_num_dims;
  const int rank = keep ? in.size : 2;
  auto* shape = static_cast<TfLiteIntArray*>(malloc(sizeof(int) * (rank + 1)));
  KP_REQUIRE(shape != nullptr, "out of memory for a shape");
  int* dims = reinterpret_cast<int*>(shape) + 1;
  shape->size = rank;
  for (int i = 0; i + 1 < rank; ++i) dims[i] = keep ? in.data[i] : static_cast<int>(op.batch);
  dims[rank - 1] = static_cast<int>(FcRows(op.layout));
  return context->ResizeTensor(context, &context->tensors[op.y], shape);
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* op = static_cast<PackedFc*>(node->user_data);
  KP_REQUIRE(op != nullptr, "the operator could not be read from the graph; free memory or export the model again");
  TfLiteStatus status = CheckTensorIndices(context, *op);
  if (status == kTfLiteOk) status = ReadFcOptions(context, op);
  if (status == kTfLiteOk) status = CheckPackedTensor(context, kPackedFcName, op->packed);
  if (status == kTfLiteOk) status = MakeLayout(context, op, CheckShapes, WantedLayout, MakeLayoutOfBytes);
  if (status != kTfLiteOk) return status;
  const int num_threads = FindWorkers(context, op, op->batch);
  status = ResizeWorkspace(context, op, FcWorkspaceBytes(op->layout, op->batch, num_threads));
  return status == kTfLiteOk ? ResizeOutput(context, *op) : status;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  const auto& op = *static_cast<const PackedFc*>(node->user_data);
  FcCall call;
  if (MakeCall(context, op, op.batch, &call) != kTfLiteOk) return kTfLiteError;
  if (op.batch != 0) FcForward(op.layout, call);
  return kTfLiteOk;
}

}  // namespace

TfLiteRegistration PackedFcRegistration() {
  TfLiteRegistration registration = {};
  registration.init = Init;
  registration.free = Free;
  registration.prepare = Prepare;
  registration.invoke = Invoke;
  registration.custom_name = "KerasPruneDelegate";
  registration.version = 1;
  return registration;
}

}  // namespace keras_prune
