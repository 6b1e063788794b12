#include "packed_conv.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "../tensor_format.h"
#include "checks.h"
#include "shared.h"

namespace keras_prune {
namespace {

constexpr int kConvOptionsBytes = 16;
constexpr uint8_t kConvOptionsVersion = 1;
constexpr int kRank = 4;  // NHWC

// The operator's options as they are in the file.
struct ConvOptions {
  uint8_t version, activation, padding, reserved;
  uint8_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  uint8_t reserved_too[2];
  uint8_t checksum[4];
};
static_assert(sizeof(ConvOptions) == kConvOptionsBytes, "as docs/format.md has it");

// One operator of the file, and its layout once it is prepared.
struct PackedConv {
  Shared* shared;  // with the delegate's other operators
  int num_inputs, num_outputs;
  int x, packed, bias, y;  // tensor indices; bias may be kTfLiteOptionalTensor
  int options_size;
  ConvOptions options;
  FcLayout* layout;
  const void* layout_data;  // the packed bytes that the layout was made from
  size_t layout_bytes;
  FcOptions made_for;
  ConvShape shape;
  float low, high;
  Workers* workers;  // null: the caller's thread alone
  void* workspace;
  size_t workspace_bytes;
};

#define KP_REQUIRE(condition, ...) KP_CHECK(condition, "KerasPruneConv2D: " __VA_ARGS__)

int IndexOf(const TfLiteIntArray& indices, int at) {
  return indices.size > at ? indices.data[at] : kTfLiteOptionalTensor;
}

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* op = static_cast<PackedConv*>(calloc(1, sizeof(PackedConv)));
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
  op->x = IndexOf(*node->inputs, 0);
  op->packed = IndexOf(*node->inputs, 1);
  op->bias = IndexOf(*node->inputs, 2);
  op->y = IndexOf(*node->outputs, 0);
  op->options_size = node->custom_initial_data != nullptr ? node->custom_initial_data_size : 0;
  if (op->options_size == kConvOptionsBytes) memcpy(&op->options, node->custom_initial_data, kConvOptionsBytes);
  return op;
}

void Free(TfLiteContext*, void* buffer) {
  auto* op = static_cast<PackedConv*>(buffer);
  if (op == nullptr) return;
  FreeFcLayout(op->layout);
  free(op->workspace);
  free(op);
}

// Once the images are known.
FcOptions WantedLayout(const PackedConv& op) {
  return {op.shared->isa, Activations::kFloat32, ConvPixels(op.shape)};
}

TfLiteStatus CheckConvOptions(TfLiteContext* context, PackedConv* op) {
  KP_REQUIRE(op->options_size == kConvOptionsBytes, "expected %d bytes of options, got %d; export the model again",
             kConvOptionsBytes, op->options_size);
  const ConvOptions& o = op->options;
  KP_REQUIRE(o.version == kConvOptionsVersion, "expected options version %d, got %d; install a keras_prune that reads it",
             kConvOptionsVersion, o.version);
  KP_REQUIRE(Load32(o.checksum) == Crc32(0, &o.version, kConvOptionsBytes - 4),
             "the options' checksum does not match (corrupt); export the model again");
  KP_REQUIRE(o.activation <= 3, "expected an activation from 0 to 3, got %d; export the model again", o.activation);
  KP_REQUIRE(o.padding <= 1, "expected padding 0 (same) or 1 (valid), got %d; export the model again", o.padding);
  KP_REQUIRE(o.reserved == 0 && o.reserved_too[0] == 0 && o.reserved_too[1] == 0,
             "unknown flags %d %d %d; install a keras_prune that reads them", o.reserved, o.reserved_too[0],
             o.reserved_too[1]);
  KP_REQUIRE(o.kernel_h > 0 && o.kernel_w > 0 && o.stride_h > 0 && o.stride_w > 0 && o.dilation_h > 0 &&
                 o.dilation_w > 0,
             "expected a kernel, strides and dilations of 1 or more, got %dx%d, %dx%d and %dx%d; export again",
             o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.dilation_h, o.dilation_w);
  constexpr float kInfinity = __builtin_inff();
  constexpr float kLow[] = {-kInfinity, 0.0f, -1.0f, 0.0f}, kHigh[] = {kInfinity, kInfinity, 1.0f, 6.0f};
  op->low = kLow[o.activation];
  op->high = kHigh[o.activation];
  return kTfLiteOk;
}

TfLiteStatus CheckTensorIndices(TfLiteContext* context, const PackedConv& op) {
  KP_REQUIRE(op.num_inputs == 2 || op.num_inputs == 3, "expected 2 or 3 inputs, got %d; export the model again",
             op.num_inputs);
  KP_REQUIRE(op.num_outputs == 1, "expected 1 output, got %d; export the model again", op.num_outputs);
  const auto exists = [context](int index) { return TensorExists(context, index); };
  KP_REQUIRE(exists(op.x) && exists(op.packed) && exists(op.y), "an input or the output is missing; export again");
  KP_REQUIRE(op.bias == kTfLiteOptionalTensor || exists(op.bias), "the bias is missing; export the model again");
  return kTfLiteOk;
}

TfLiteStatus CheckBias(TfLiteContext* context, const PackedConv& op, uint32_t rows) {
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

// Sizes of the images, and that a patch has as many values as the packed weights have columns.
TfLiteStatus ReadImages(TfLiteContext* context, PackedConv* op, uint32_t cols) {
  const TfLiteTensor& t = context->tensors[op->x];
  const ConvOptions& o = op->options;
  KP_REQUIRE(t.type == kTfLiteFloat32, "input %s: expected float32, got type %d; feed float32 activations", NameOf(t),
             t.type);
  KP_REQUIRE(t.dims != nullptr && t.dims->size == kRank,
             "input %s: expected rank 4 (batch, height, width, channels), got rank %d; export the model again",
             NameOf(t), t.dims != nullptr ? t.dims->size : 0);
  const int* dims = t.dims->data;
  uint64_t values = sizeof(float);
  for (int i = 0; i < kRank; ++i) {
    KP_REQUIRE(dims[i] >= (i == 0 ? 0 : 1), "input %s: dimension %d is %d; resize the input first", NameOf(t), i,
               dims[i]);
    KP_REQUIRE(!__builtin_mul_overflow(values, static_cast<uint64_t>(dims[i]), &values) && values <= PTRDIFF_MAX,
               "input %s: too large", NameOf(t));
  }
  KP_REQUIRE(uint64_t{o.kernel_h} * o.kernel_w * static_cast<uint32_t>(dims[3]) == cols,
             "input %s: expected %u / (%d x %d) channels as the packed weights have columns, got %d; export again",
             NameOf(t), cols, o.kernel_h, o.kernel_w, dims[3]);
  ConvShape* s = &op->shape;
  *s = {};
  s->batch = static_cast<size_t>(dims[0]);
  s->in_h = static_cast<size_t>(dims[1]);
  s->in_w = static_cast<size_t>(dims[2]);
  s->channels = static_cast<size_t>(dims[3]);
  s->kernel_h = o.kernel_h;
  s->kernel_w = o.kernel_w;
  s->stride_h = o.stride_h;
  s->stride_w = o.stride_w;
  s->dilation_h = o.dilation_h;
  s->dilation_w = o.dilation_w;
  return kTfLiteOk;
}

// TFLite's sizes: of "same" padding, the larger half comes after the image. 0 where the kernel does not fit.
size_t OutputSize(bool same, size_t in, size_t kernel, size_t stride, size_t dilation, size_t* pad) {
  const size_t extent = (kernel - 1) * dilation + 1;
  if (!same) return in < extent ? 0 : (in - extent) / stride + 1;
  const size_t out = (in - 1) / stride + 1, needed = (out - 1) * stride + extent;
  *pad = needed > in ? (needed - in) / 2 : 0;
  return out;
}

TfLiteStatus ComputeOutput(TfLiteContext* context, PackedConv* op, uint32_t rows) {
  ConvShape* s = &op->shape;
  const bool same = op->options.padding == 0;
  s->out_h = OutputSize(same, s->in_h, s->kernel_h, s->stride_h, s->dilation_h, &s->pad_top);
  s->out_w = OutputSize(same, s->in_w, s->kernel_w, s->stride_w, s->dilation_w, &s->pad_left);
  KP_REQUIRE(s->out_h > 0 && s->out_w > 0, "expected an image that the kernel fits into, got %d x %d; resize the input",
             static_cast<int>(s->in_h), static_cast<int>(s->in_w));
  uint64_t values = sizeof(float);
  const size_t sizes[] = {s->batch, s->out_h, s->out_w, rows};
  for (const size_t size : sizes) {
    KP_REQUIRE(!__builtin_mul_overflow(values, uint64_t{size}, &values) && values <= PTRDIFF_MAX,
               "an output of %d images, %d x %d pixels and %u channels is too large", static_cast<int>(s->batch),
               static_cast<int>(s->out_h), static_cast<int>(s->out_w), rows);
  }
  return kTfLiteOk;
}

// The channels that the file declares; -1: any.
int DeclaredChannels(const TfLiteTensor& y) {
  const bool has_signature = y.dims_signature != nullptr && y.dims_signature->size > 0;
  const TfLiteIntArray* declared = has_signature ? y.dims_signature : y.dims;
  return declared != nullptr && declared->size > 0 ? declared->data[declared->size - 1] : -1;
}

TfLiteStatus CheckOutput(TfLiteContext* context, const PackedConv& op, uint32_t rows) {
  const TfLiteTensor& y = context->tensors[op.y];
  KP_REQUIRE(y.type == kTfLiteFloat32, "output %s: expected float32, got type %d; export the model again", NameOf(y),
             y.type);
  KP_REQUIRE(!IsConstant(y), "output %s: expected a tensor to write to, got a constant; export the model again",
             NameOf(y));
  const int last = DeclaredChannels(y);
  KP_REQUIRE(last < 0 || static_cast<uint32_t>(last) == rows,
             "output %s: expected %u channels as the packed weights have rows, got %d; export again", NameOf(y), rows,
             last);
  KP_REQUIRE(op.bias != kTfLiteOptionalTensor || last >= 0,
             "output %s: expected a last dimension in the file, got none; export the model again", NameOf(y));
  return kTfLiteOk;
}

// Everything that the tensors' shapes tell is compared with what the packed bytes claim, before memory is spent on it.
TfLiteStatus CheckShapes(TfLiteContext* context, PackedConv* op, uint32_t rows, uint32_t cols) {
  TfLiteStatus status = CheckBias(context, *op, rows);
  if (status == kTfLiteOk) status = CheckOutput(context, *op, rows);
  if (status == kTfLiteOk) status = ReadImages(context, op, cols);
  return status == kTfLiteOk ? ComputeOutput(context, op, rows) : status;
}

TfLiteStatus DecodeLayout(TfLiteContext* context, PackedConv* op, const TfLiteTensor& t) {
  TensorView view;
  Status status = ParseTensor(static_cast<const uint8_t*>(t.data), t.bytes, &view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  KP_REQUIRE(view.values == Values::kCodebook,
             "packed weights %s: expected values of a codebook (0), got kind %d; export the model again", NameOf(t),
             static_cast<int>(view.values));
  if (CheckShapes(context, op, view.rows, view.cols) != kTfLiteOk) return kTfLiteError;
  const uint64_t num_bytes = EntriesBytes(view);
  auto* scratch = num_bytes < SIZE_MAX ? static_cast<uint8_t*>(malloc(static_cast<size_t>(num_bytes) + 1)) : nullptr;
  PackedView entries;
  status = scratch != nullptr ? UnpackEntries(view, scratch, &entries) : Status::kOutOfMemory;
  if (status == Status::kOk) status = MakeFcLayout(entries, WantedLayout(*op), &op->layout);
  free(scratch);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(t), StatusMessage(status));
  return kTfLiteOk;
}

// Makes the layout unless it is there already for these bytes and about as many pixels: prepare runs again at every
// resize.
TfLiteStatus MakeLayout(TfLiteContext* context, PackedConv* op) {
  const TfLiteTensor& t = context->tensors[op->packed];
  if (op->layout != nullptr && op->layout_data == t.data && op->layout_bytes == t.bytes) {
    if (CheckShapes(context, op, FcRows(op->layout), FcCols(op->layout)) != kTfLiteOk) return kTfLiteError;
    if (FcSameLayout(op->made_for, WantedLayout(*op))) return kTfLiteOk;
  }
  FreeFcLayout(op->layout);
  op->layout = nullptr;
  const TfLiteStatus status = DecodeLayout(context, op, t);
  op->layout_data = t.data;
  op->layout_bytes = t.bytes;
  op->made_for = WantedLayout(*op);
  return status;
}

// The threads and the memory for a call.
TfLiteStatus MakeWorkspace(TfLiteContext* context, PackedConv* op) {
  op->workers = WorkersFor(op->shared, *context);
  const int num_threads = FcThreads(op->layout, ConvPixels(op->shape), NumThreads(op->workers));
  if (num_threads == 1) op->workers = nullptr;
  const size_t needed = ConvWorkspaceBytes(op->layout, op->shape, num_threads);
  if (needed == op->workspace_bytes) return kTfLiteOk;
  free(op->workspace);
  op->workspace = nullptr;
  op->workspace_bytes = 0;
  if (needed == 0) return kTfLiteOk;
  KP_REQUIRE(posix_memalign(&op->workspace, kWorkspaceAlignment, needed) == 0,
             "out of memory for patches of the images; free memory or export the model again");
  op->workspace_bytes = needed;
  return kTfLiteOk;
}

TfLiteStatus ResizeOutput(TfLiteContext* context, const PackedConv& op) {
  auto* shape = static_cast<TfLiteIntArray*>(malloc(sizeof(int) * (kRank + 1)));
  KP_REQUIRE(shape != nullptr, "out of memory for a shape");
  int* dims = reinterpret_cast<int*>(shape) + 1;
  shape->size = kRank;
  dims[0] = static_cast<int>(op.shape.batch);
  dims[1] = static_cast<int>(op.shape.out_h);
  dims[2] = static_cast<int>(op.shape.out_w);
  dims[3] = static_cast<int>(FcRows(op.layout));
  return context->ResizeTensor(context, &context->tensors[op.y], shape);
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* op = static_cast<PackedConv*>(node->user_data);
  KP_REQUIRE(op != nullptr, "the operator could not be read from the graph; free memory or export the model again");
  TfLiteStatus status = CheckTensorIndices(context, *op);
  if (status == kTfLiteOk) status = CheckConvOptions(context, op);
  if (status == kTfLiteOk) status = CheckPackedTensor(context, kPackedConvName, op->packed);
  if (status == kTfLiteOk) status = MakeLayout(context, op);
  if (status == kTfLiteOk) status = MakeWorkspace(context, op);
  return status == kTfLiteOk ? ResizeOutput(context, *op) : status;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  const auto& op = *static_cast<const PackedConv*>(node->user_data);
  const TfLiteTensor* t = context->tensors;
  const auto* bias = op.bias == kTfLiteOptionalTensor ? nullptr : static_cast<const float*>(t[op.bias].data);
  KP_REQUIRE(bias != nullptr || op.bias == kTfLiteOptionalTensor,
             "bias %s: expected values, got none; compute it before this operator, or export again",
             NameOf(t[op.bias]));
  if (op.shape.batch == 0) return kTfLiteOk;
  KP_REQUIRE(t[op.x].data != nullptr && t[op.y].data != nullptr, "the input or the output has no memory; export again");
  FcCall call = {static_cast<const float*>(t[op.x].data), ConvPixels(op.shape), bias, op.low, op.high,
                 static_cast<float*>(t[op.y].data)};
  call.workers = op.workers;
  call.workspace = op.workspace;
  ConvForward(op.layout, op.shape, call);
  return kTfLiteOk;
}

}  // namespace

TfLiteRegistration PackedConvRegistration() {
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
