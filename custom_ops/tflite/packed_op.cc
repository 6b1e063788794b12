#include "packed_op.h"

#include <stdlib.h>

#include "../scratch.h"

namespace keras_prune {
namespace {

#define KP_REQUIRE(condition, format, ...) KP_CHECK(condition, "%s: " format, op.name, ##__VA_ARGS__)

int IndexOf(const TfLiteIntArray& indices, int at) {
  return indices.size > at ? indices.data[at] : kTfLiteOptionalTensor;
}

// The last dimension that the file declares; -1: any.
int DeclaredUnits(const TfLiteTensor& y) {
  const bool has_signature = y.dims_signature != nullptr && y.dims_signature->size > 0;
  const TfLiteIntArray* declared = has_signature ? y.dims_signature : y.dims;
  return declared != nullptr && declared->size > 0 ? declared->data[declared->size - 1] : -1;
}

}  // namespace

const TfLiteNode* ReadNode(TfLiteContext* context, const char* buffer, const char* name, PackedOp* op) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk) {
    return nullptr;
  }
  op->name = name;
  op->shared = static_cast<Shared*>(params->delegate->data);
  op->num_inputs = node->inputs->size;
  op->num_outputs = node->outputs->size;
  op->x = IndexOf(*node->inputs, 0);
  op->packed = IndexOf(*node->inputs, 1);
  op->bias = IndexOf(*node->inputs, 2);
  op->y = IndexOf(*node->outputs, 0);
  return node;
}

void FreeOp(PackedOp* op) {
  if (op == nullptr) return;
  FreeFcLayout(op->layout);
  free(op->workspace);
  free(op);
}

TfLiteStatus CheckTensorIndices(TfLiteContext* context, const PackedOp& op) {
  KP_REQUIRE(op.num_inputs == 2 || op.num_inputs == 3, "expected 2 or 3 inputs, got %d; export the model again",
             op.num_inputs);
  KP_REQUIRE(op.num_outputs == 1, "expected 1 output, got %d; export the model again", op.num_outputs);
  const auto exists = [context](int index) { return TensorExists(context, index); };
  KP_REQUIRE(exists(op.x) && exists(op.packed) && exists(op.y), "an input or the output is missing; export again");
  KP_REQUIRE(op.bias == kTfLiteOptionalTensor || exists(op.bias), "the bias is missing; export the model again");
  return kTfLiteOk;
}

TfLiteStatus ReadActivation(TfLiteContext* context, PackedOp* made, uint8_t number) {
  const PackedOp& op = *made;
  KP_REQUIRE(number <= 3, "expected an activation from 0 to 3, got %d; export the model again", number);
  constexpr float kInfinity = __builtin_inff();
  constexpr float kLow[] = {-kInfinity, 0.0f, -1.0f, 0.0f}, kHigh[] = {kInfinity, kInfinity, 1.0f, 6.0f};
  made->low = kLow[number];
  made->high = kHigh[number];
  return kTfLiteOk;
}

TfLiteStatus ReadArithmetic(TfLiteContext* context, PackedOp* made, uint8_t number) {
  const PackedOp& op = *made;
  KP_REQUIRE(number <= kInt8Dynamic, "unknown arithmetic %d; install a keras_prune that reads it", number);
  made->activations = number == kFloat32 ? Activations::kFloat32 : Activations::kInt8;
  made->x_scale = 0.0f;
  return kTfLiteOk;
}

TfLiteStatus ReadStaticScale(TfLiteContext* context, PackedOp* made, const uint8_t* bytes) {
  const PackedOp& op = *made;
  const float scale = FloatFromBits(Load32(bytes));
  KP_REQUIRE(scale > 0.0f && scale <= __FLT_MAX__, "expected a scale above 0, got %g; export the model again",
             static_cast<double>(scale));
  made->activations = Activations::kInt8;
  made->x_scale = scale;
  return kTfLiteOk;
}

TfLiteStatus CheckBias(TfLiteContext* context, const PackedOp& op, uint32_t rows) {
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

TfLiteStatus CheckOutput(TfLiteContext* context, const PackedOp& op, uint32_t rows) {
  const TfLiteTensor& y = context->tensors[op.y];
  KP_REQUIRE(y.type == kTfLiteFloat32, "output %s: expected float32, got type %d; export the model again", NameOf(y),
             y.type);
  KP_REQUIRE(!IsConstant(y), "output %s: expected a tensor to write to, got a constant; export the model again",
             NameOf(y));
  const int last = DeclaredUnits(y);
  KP_REQUIRE(last < 0 || static_cast<uint32_t>(last) == rows,
             "output %s: expected a last dimension of %u as the packed weights have rows, got %d; export again",
             NameOf(y), rows, last);
  return kTfLiteOk;
}

TfLiteStatus CheckRowsDeclared(TfLiteContext* context, const PackedOp& op) {
  const TfLiteTensor& y = context->tensors[op.y];
  KP_REQUIRE(op.bias != kTfLiteOptionalTensor || DeclaredUnits(y) >= 0,
             "output %s: expected a last dimension in the file, got none; export the model again", NameOf(y));
  return kTfLiteOk;
}

TfLiteStatus ParseCodebook(TfLiteContext* context, const PackedOp& op, TensorView* view) {
  const TfLiteTensor& t = context->tensors[op.packed];
  const Status status = ParseTensor(static_cast<const uint8_t*>(t.data), t.bytes, view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  KP_REQUIRE(view->values == Values::kCodebook,
             "packed weights %s: expected values of a codebook (0), got kind %d; export the model again", NameOf(t),
             static_cast<int>(view->values));
  return kTfLiteOk;
}

TfLiteStatus DecodeLayout(TfLiteContext* context, PackedOp* made, const TensorView& view, const FcOptions& wanted) {
  const PackedOp& op = *made;
  const Scratch scratch(EntriesBytes(view));
  PackedView entries;
  Status status = scratch.data() != nullptr ? UnpackEntries(view, scratch.data(), &entries) : Status::kOutOfMemory;
  if (status == Status::kOk) status = MakeFcLayout(entries, wanted, &made->layout);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(context->tensors[op.packed]),
             StatusMessage(status));
  return kTfLiteOk;
}

int FindWorkers(const TfLiteContext* context, PackedOp* op, size_t batch) {
  op->workers = WorkersFor(op->shared, *context);
  const int num_threads = FcThreads(op->layout, batch, NumThreads(op->workers));
  if (num_threads == 1) op->workers = nullptr;
  return num_threads;
}

TfLiteStatus ResizeWorkspace(TfLiteContext* context, PackedOp* made, uint64_t needed) {
  const PackedOp& op = *made;
  if (needed == op.workspace_bytes) return kTfLiteOk;
  free(op.workspace);
  made->workspace = nullptr;
  made->workspace_bytes = 0;
  if (needed == 0) return kTfLiteOk;
  const auto num_bytes = static_cast<size_t>(needed);
  KP_REQUIRE(needed <= PTRDIFF_MAX && posix_memalign(&made->workspace, kWorkspaceAlignment, num_bytes) == 0,
             "out of memory for the activations; free memory or take a smaller batch");
  made->workspace_bytes = num_bytes;
  return kTfLiteOk;
}

TfLiteStatus MakeCall(TfLiteContext* context, const PackedOp& op, size_t batch, FcCall* call) {
  const TfLiteTensor* t = context->tensors;
  const auto* bias = op.bias == kTfLiteOptionalTensor ? nullptr : static_cast<const float*>(t[op.bias].data);
  KP_REQUIRE(bias != nullptr || op.bias == kTfLiteOptionalTensor,
             "bias %s: expected values, got none; compute it before this operator, or export again",
             NameOf(t[op.bias]));
  KP_REQUIRE(batch == 0 || (t[op.x].data != nullptr && t[op.y].data != nullptr),
             "the input or the output has no memory; export again");
  *call = {static_cast<const float*>(t[op.x].data), batch, bias, op.low, op.high, static_cast<float*>(t[op.y].data)};
  call->x_scale = op.x_scale;
  call->workers = op.workers;
  call->workspace = op.workspace;
  return kTfLiteOk;
}

}  // namespace keras_prune
