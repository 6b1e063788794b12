#include "packed_fc.h"

#include <limits.h>
#include <stdlib.h>

#include "../tensor_format.h"
#include "checks.h"
#include "shared.h"

namespace keras_prune {
namespace {

constexpr uint8_t kKeepNumDims = 1;
enum Arithmetic : uint8_t { kFloat32, kInt8Dynamic, kInt8Static };  // byte 3 of the options

// One operator of the file, and its layout once it is prepared.
struct PackedFc {
  Shared* shared;  // with the delegate's other operators
  int num_inputs, num_outputs;
  int x, packed, bias, y;  // tensor indices; bias may be kTfLiteOptionalTensor
  Options options;
  FcLayout* layout;
  const void* layout_data;  // the packed bytes that the layout was made from
  size_t layout_bytes;
  FcOptions made_for;
  size_t batch;
  float low, high;
  float x_scale;     // of int8 activations; 0: of each row
  Workers* workers;  // null: the caller's thread alone
  void* workspace;
  size_t workspace_bytes;
};

#define KP_REQUIRE(condition, ...) KP_CHECK(condition, "KerasPruneFullyConnected: " __VA_ARGS__)

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* op = static_cast<PackedFc*>(calloc(1, sizeof(PackedFc)));
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (op == nullptr || params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk) {
    free(op);
    return nullptr;  // reported by Prepare
  }
  op->shared = static_cast<Shared*>(params->delegate->data);
  op->num_inputs = node->inputs->size;
  op->num_outputs = node->outputs->size;
  op->x = op->num_inputs > 0 ? node->inputs->data[0] : kTfLiteOptionalTensor;
  op->packed = op->num_inputs > 1 ? node->inputs->data[1] : kTfLiteOptionalTensor;
  op->bias = op->num_inputs > 2 ? node->inputs->data[2] : kTfLiteOptionalTensor;
  op->y = op->num_outputs > 0 ? node->outputs->data[0] : kTfLiteOptionalTensor;
  op->options = ReadOptions(*node);
  return op;
}

void Free(TfLiteContext*, void* buffer) {
  auto* op = static_cast<PackedFc*>(buffer);
  if (op == nullptr) return;
  FreeFcLayout(op->layout);
  free(op->workspace);
  free(op);
}

// Once the batch is known.
FcOptions WantedLayout(const PackedFc& op) {
  return {op.shared->isa, op.options.bytes[3] == kFloat32 ? Activations::kFloat32 : Activations::kInt8, op.batch};
}

TfLiteStatus ReadActivation(TfLiteContext* context, PackedFc* op) {
  if (CheckOptions(context, kPackedFcName, op->options, kMostOptionsBytes) != kTfLiteOk) return kTfLiteError;
  const uint8_t* o = op->options.bytes;
  KP_REQUIRE(o[1] <= 3, "expected an activation from 0 to 3, got %d; export the model again", o[1]);
  KP_REQUIRE((o[2] & ~kKeepNumDims) == 0, "unknown flags %d; install a keras_prune that reads them", o[2]);
  constexpr float kInfinity = __builtin_inff();
  constexpr float kLow[] = {-kInfinity, 0.0f, -1.0f, 0.0f}, kHigh[] = {kInfinity, kInfinity, 1.0f, 6.0f};
  op->low = kLow[o[1]];
  op->high = kHigh[o[1]];
  return kTfLiteOk;
}

// What is multiplied, and with int8 from calibration one step of x.
TfLiteStatus ReadArithmetic(TfLiteContext* context, PackedFc* op) {
  const uint8_t* o = op->options.bytes;
  KP_REQUIRE(o[3] <= kInt8Static, "unknown arithmetic %d; install a keras_prune that reads it", o[3]);
  const int expected = o[3] == kInt8Static ? kMostOptionsBytes : kOptionsBytes;
  KP_REQUIRE(op->options.size == expected, "expected %d bytes of options for arithmetic %d, got %d; export again",
             expected, o[3], op->options.size);
  op->x_scale = o[3] == kInt8Static ? FloatFromBits(Load32(o + 8)) : 0.0f;
  const bool is_scale = op->x_scale > 0.0f && op->x_scale <= __FLT_MAX__;
  KP_REQUIRE(o[3] != kInt8Static || is_scale, "expected a scale above 0, got %g; export the model again",
             static_cast<double>(op->x_scale));
  return kTfLiteOk;
}

TfLiteStatus CheckTensorIndices(TfLiteContext* context, const PackedFc& op) {
  KP_REQUIRE(op.num_inputs == 2 || op.num_inputs == 3, "expected 2 or 3 inputs, got %d; export the model again",
             op.num_inputs);
  KP_REQUIRE(op.num_outputs == 1, "expected 1 output, got %d; export the model again", op.num_outputs);
  const auto exists = [context](int index) { return TensorExists(context, index); };
  KP_REQUIRE(exists(op.x) && exists(op.packed) && exists(op.y), "an input or the output is missing; export again");
  KP_REQUIRE(op.bias == kTfLiteOptionalTensor || exists(op.bias), "the bias is missing; export the model again");
  return kTfLiteOk;
}

TfLiteStatus CheckBias(TfLiteContext* context, const PackedFc& op, uint32_t rows) {
  if (op.bias == kTfLiteOptionalTensor) return kTfLiteOk;
  const TfLiteTensor& t = context->tensors[op.bias];
  KP_REQUIRE(t.type == kTfLiteFloat32, "bias %s: expected float32, got type %d; export the model again", NameOf(t),
             t.type);
  KP_REQUIRE(t.dims != nullptr && t.dims->size == 1 && static_cast<uint32_t>(t.dims->data[0]) == rows,
             "bias %s: expected shape [%u] as the packed weights have rows, got rank %d and %d values; export again",
             NameOf(t), rows, t.dims != nullptr ? t.dims->size : 0, static_cast<int>(t.bytes / sizeof(float)));
  KP_REQUIRE(!IsConstant(t) || t.data != nullptr, "bias %s: expected values, got a constant without any; export again",
             NameOf(t));
  return kTfLiteOk;
}

// Checks the activations and counts their rows.
TfLiteStatus CountBatch(TfLiteContext* context, PackedFc* op, uint32_t cols) {
  const TfLiteTensor& t = context->tensors[op->x];
  KP_REQUIRE(t.type == kTfLiteFloat32, "input %s: expected float32, got type %d; feed float32 activations", NameOf(t),
             t.type);
  KP_REQUIRE(t.dims != nullptr && t.dims->size >= 1, "input %s: expected rank 1 or more, got a scalar", NameOf(t));
  uint64_t values = 1;
  for (int i = 0; i < t.dims->size; ++i) {
    KP_REQUIRE(t.dims->data[i] >= 0, "input %s: dimension %d is %d; resize the input first", NameOf(t), i,
               t.dims->data[i]);
    KP_REQUIRE(!__builtin_mul_overflow(values, static_cast<uint64_t>(t.dims->data[i]), &values) && values <= INT64_MAX,
               "input %s: too large", NameOf(t));
  }
  const int last = t.dims->data[t.dims->size - 1];
  const bool fits =
      (op->options.bytes[2] & kKeepNumDims) != 0 ? static_cast<uint32_t>(last) == cols : values % cols == 0;
  KP_REQUIRE(fits,
             "input %s: expected %u values in a row as the packed weights have columns, got a last dimension of %d",
             NameOf(t), cols, last);
  op->batch = values / cols;
  return kTfLiteOk;
}

// The last dimension that the file declares; -1: any.
int DeclaredUnits(const TfLiteTensor& y) {
  const bool has_signature = y.dims_signature != nullptr && y.dims_signature->size > 0;
  const TfLiteIntArray* declared = has_signature ? y.dims_signature : y.dims;
  return declared != nullptr && declared->size > 0 ? declared->data[declared->size - 1] : -1;
}

TfLiteStatus CheckOutput(TfLiteContext* context, const PackedFc& op, uint32_t rows) {
  const TfLiteTensor& y = context->tensors[op.y];
  KP_REQUIRE(y.type == kTfLiteFloat32, "output %s: expected float32, got type %d; export the model again", NameOf(y),
             y.type);
  KP_REQUIRE(!IsConstant(y), "output %s: expected a tensor to write to, got a constant; export the model again",
             NameOf(y));
  const int last = DeclaredUnits(y);
  KP_REQUIRE(last < 0 || static_cast<uint32_t>(last) == rows,
             "output %s: expected a last dimension of %u as the packed weights have rows, got %d; export again",
             NameOf(y), rows, last);
  KP_REQUIRE(op.batch <= INT_MAX, "an output of %u columns and more than %d rows is too large for the runtime", rows,
             INT_MAX);
  return kTfLiteOk;
}

// Everything that the tensors' shapes tell is compared with what the packed bytes claim, before memory is spent on it.
TfLiteStatus CheckShapes(TfLiteContext* context, PackedFc* op, uint32_t rows, uint32_t cols) {
  TfLiteStatus status = CheckBias(context, *op, rows);
  if (status == kTfLiteOk) status = CountBatch(context, op, cols);
  return status == kTfLiteOk ? CheckOutput(context, *op, rows) : status;
}

// Version 1 is read by the kernels as it is.
TfLiteStatus MakeLayoutOfVersion1(TfLiteContext* context, PackedFc* op, const TfLiteTensor& t) {
  PackedView view;
  Status status = ParsePacked(static_cast<const uint8_t*>(t.data), t.bytes, &view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  if (CheckShapes(context, op, view.rows, view.cols) != kTfLiteOk) return kTfLiteError;
  status = MakeFcLayout(view, WantedLayout(*op), &op->layout);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  return kTfLiteOk;
}

// Version 2 is decoded to such entries first. Few bytes may stand for many weights, so the tensors must confirm rows.
TfLiteStatus MakeLayoutOfVersion2(TfLiteContext* context, PackedFc* op, const TfLiteTensor& t) {
  TensorView view;
  Status status = ParseTensor(static_cast<const uint8_t*>(t.data), t.bytes, &view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  KP_REQUIRE(view.values == Values::kCodebook,
             "packed weights %s: expected values of a codebook (0), got kind %d; export the model again", NameOf(t),
             static_cast<int>(view.values));
  if (CheckShapes(context, op, view.rows, view.cols) != kTfLiteOk) return kTfLiteError;
  KP_REQUIRE(op->bias != kTfLiteOptionalTensor || DeclaredUnits(context->tensors[op->y]) >= 0,
             "output %s: expected a last dimension in the file, got none; export the model again",
             NameOf(context->tensors[op->y]));
  const uint64_t num_bytes = EntriesBytes(view);
  auto* scratch = num_bytes < SIZE_MAX ? static_cast<uint8_t*>(malloc(static_cast<size_t>(num_bytes) + 1)) : nullptr;
  PackedView entries;
  status = scratch != nullptr ? UnpackEntries(view, scratch, &entries) : Status::kOutOfMemory;
  if (status == Status::kOk) status = MakeFcLayout(entries, WantedLayout(*op), &op->layout);
  free(scratch);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  return kTfLiteOk;
}

// Makes the layout unless it is there already for these bytes and this kind of batch: prepare runs again at every
// resize.
TfLiteStatus MakeLayout(TfLiteContext* context, PackedFc* op) {
  const TfLiteTensor& t = context->tensors[op->packed];
  if (op->layout != nullptr && op->layout_data == t.data && op->layout_bytes == t.bytes) {
    if (CheckShapes(context, op, FcRows(op->layout), FcCols(op->layout)) != kTfLiteOk) return kTfLiteError;
    if (FcSameLayout(op->made_for, WantedLayout(*op))) return kTfLiteOk;
  }
  FreeFcLayout(op->layout);
  op->layout = nullptr;
  const bool is_version_2 = FormatVersion(static_cast<const uint8_t*>(t.data), t.bytes) == 2;
  const TfLiteStatus status =
      is_version_2 ? MakeLayoutOfVersion2(context, op, t) : MakeLayoutOfVersion1(context, op, t);
  op->layout_data = t.data;
  op->layout_bytes = t.bytes;
  op->made_for = WantedLayout(*op);
  return status;
}

// The threads and the memory for a call. What the interpreter is told about threads between two calls counts when it is
// prepared again, as with XNNPACK.
TfLiteStatus MakeWorkspace(TfLiteContext* context, PackedFc* op) {
  op->workers = WorkersFor(op->shared, *context);
  const int num_threads = FcThreads(op->layout, op->batch, NumThreads(op->workers));
  if (num_threads == 1) op->workers = nullptr;
  const size_t needed = FcWorkspaceBytes(op->layout, op->batch, num_threads);
  if (needed == op->workspace_bytes) return kTfLiteOk;
  free(op->workspace);
  op->workspace = nullptr;
  op->workspace_bytes = 0;
  if (needed == 0) return kTfLiteOk;
  KP_REQUIRE(posix_memalign(&op->workspace, kWorkspaceAlignment, needed) == 0,
             "out of memory for the activations of a batch of %d; free memory or take a smaller one",
             static_cast<int>(op->batch));
  op->workspace_bytes = needed;
  return kTfLiteOk;
}

// [batch, rows], or with kept dimensions the input's shape with `rows` for the last.
TfLiteStatus ResizeOutput(TfLiteContext* context, const PackedFc& op) {
  const TfLiteIntArray& in = *context->tensors[op.x].dims;
  const bool keep = (op.options.bytes[2] & kKeepNumDims) != 0;
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
  if (status == kTfLiteOk) status = ReadActivation(context, op);
  if (status == kTfLiteOk) status = ReadArithmetic(context, op);
  if (status == kTfLiteOk) status = CheckPackedTensor(context, kPackedFcName, op->packed);
  if (status == kTfLiteOk) status = MakeLayout(context, op);
  if (status == kTfLiteOk) status = MakeWorkspace(context, op);
  return status == kTfLiteOk ? ResizeOutput(context, *op) : status;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  const auto& op = *static_cast<const PackedFc*>(node->user_data);
  const TfLiteTensor* t = context->tensors;
  const auto* bias = op.bias == kTfLiteOptionalTensor ? nullptr : static_cast<const float*>(t[op.bias].data);
  KP_REQUIRE(bias != nullptr || op.bias == kTfLiteOptionalTensor,
             "bias %s: expected values, got none; compute it before this operator, or export again",
             NameOf(t[op.bias]));
  if (op.batch == 0) return kTfLiteOk;
  KP_REQUIRE(t[op.x].data != nullptr && t[op.y].data != nullptr, "the input or the output has no memory; export again");
  FcCall call = {static_cast<const float*>(t[op.x].data), op.batch, bias, op.low, op.high,
                 static_cast<float*>(t[op.y].data)};
  call.x_scale = op.x_scale;
  call.workers = op.workers;
  call.workspace = op.workspace;
  FcForward(op.layout, call);
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
