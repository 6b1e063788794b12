#include "packed_conv.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "packed_op.h"

namespace keras_prune {
namespace {

constexpr int kConvOptionsBytes = 16;
constexpr int kRank = 4;  // NHWC

// The operator's options as they are in the file, and what version 2 has in their places.
struct ConvOptions {
  uint8_t version, activation, padding, arithmetic;
  uint8_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  uint8_t reserved[2];
  uint8_t checksum[4];
};
struct StaticConvOptions {
  uint8_t version, flags;  // bits 0 and 1: activation, 2: padding
  uint8_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  uint8_t x_scale[4];
  uint8_t checksum[4];
};
static_assert(sizeof(ConvOptions) == kConvOptionsBytes && sizeof(StaticConvOptions) == kConvOptionsBytes,
              "as docs/format.md has it");

struct PackedConv : PackedOp {
  int options_size;
  uint8_t bytes[kConvOptionsBytes];  // of the options
  ConvOptions options;               // of version 1, or as version 2 says in other places
  ConvShape shape;
};

#define KP_REQUIRE(condition, ...) KP_CHECK(condition, "KerasPruneConv2D: " __VA_ARGS__)

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  auto* op = static_cast<PackedConv*>(calloc(1, sizeof(PackedConv)));
  const TfLiteNode* node = op != nullptr ? ReadNode(context, buffer, kPackedConvName, op) : nullptr;
  if (node == nullptr) {
    free(op);
    return nullptr;  // reported by Prepare
  }
  op->options_size = node->custom_initial_data != nullptr ? node->custom_initial_data_size : 0;
  const int known = op->options_size < kConvOptionsBytes ? op->options_size : kConvOptionsBytes;
  if (known > 0) memcpy(op->bytes, node->custom_initial_data, static_cast<size_t>(known));
  return op;
}

void Free(TfLiteContext*, void* buffer) { FreeOp(static_cast<PackedConv*>(buffer)); }

// Once the images are known.
FcOptions WantedLayout(const PackedConv& op) { return {op.shared->isa, op.activations, ConvPixels(op.shape)}; }

TfLiteStatus ReadPlainOptions(TfLiteContext* context, PackedConv* op) {
  ConvOptions& o = op->options;
  memcpy(&o, op->bytes, sizeof o);
  KP_REQUIRE(o.reserved[0] == 0 && o.reserved[1] == 0, "unknown flags %d %d; install a keras_prune that reads them",
             o.reserved[0], o.reserved[1]);
  return ReadArithmetic(context, op, o.arithmetic);
}

// Version 2: as short as version 1, so that libraries that know only that one say which version they need.
TfLiteStatus ReadStaticOptions(TfLiteContext* context, PackedConv* op) {
  StaticConvOptions o;
  memcpy(&o, op->bytes, sizeof o);
  KP_REQUIRE(o.flags >> 3 == 0, "unknown flags %d; install a keras_prune that reads them", o.flags);
  op->options = {o.version, static_cast<uint8_t>(o.flags & 3), static_cast<uint8_t>(o.flags >> 2), kInt8Dynamic,
                 o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.dilation_h, o.dilation_w, {}, {}};
  return ReadStaticScale(context, op, o.x_scale);
}

// Newer versions may have other sizes.
TfLiteStatus CheckVersion(TfLiteContext* context, const PackedConv& op) {
  const uint8_t version = op.bytes[0];
  KP_REQUIRE(op.options_size == 0 || (version >= kPlainOptions && version <= kStaticOptions),
             "expected options version %d or %d, got %d; install a keras_prune that reads it", kPlainOptions,
             kStaticOptions, version);
  KP_REQUIRE(op.options_size == kConvOptionsBytes, "expected %d bytes of options, got %d; export the model again",
             kConvOptionsBytes, op.options_size);
  KP_REQUIRE(Load32(op.bytes + kConvOptionsBytes - 4) == Crc32(0, op.bytes, kConvOptionsBytes - 4),
             "the options' checksum does not match (corrupt); export the model again");
  return kTfLiteOk;
}

TfLiteStatus ReadConvOptions(TfLiteContext* context, PackedConv* op) {
  TfLiteStatus status = CheckVersion(context, *op);
  if (status == kTfLiteOk) {
    status = op->bytes[0] == kStaticOptions ? ReadStaticOptions(context, op) : ReadPlainOptions(context, op);
  }
  const ConvOptions& o = op->options;
  if (status == kTfLiteOk) status = ReadActivation(context, op, o.activation);
  if (status != kTfLiteOk) return status;
  KP_REQUIRE(o.padding <= 1, "expected padding 0 (same) or 1 (valid), got %d; export the model again", o.padding);
  KP_REQUIRE(o.kernel_h > 0 && o.kernel_w > 0 && o.stride_h > 0 && o.stride_w > 0 && o.dilation_h > 0 &&
                 o.dilation_w > 0,
             "expected a kernel, strides and dilations of 1 or more, got %dx%d, %dx%d and %dx%d; export again",
             o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.dilation_h, o.dilation_w);
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

// Everything that the tensors' shapes tell is compared with what the packed bytes claim, before memory is spent on it.
TfLiteStatus CheckShapes(TfLiteContext* context, PackedConv* op, uint32_t rows, uint32_t cols) {
  TfLiteStatus status = CheckBias(context, *op, rows);
  if (status == kTfLiteOk) status = CheckOutput(context, *op, rows);
  if (status == kTfLiteOk) status = CheckRowsDeclared(context, *op);
  if (status == kTfLiteOk) status = ReadImages(context, op, cols);
  return status == kTfLiteOk ? ComputeOutput(context, op, rows) : status;
}

TfLiteStatus MakeLayoutOfBytes(TfLiteContext* context, PackedConv* op) {
  TensorView view;
  TfLiteStatus status = ParseCodebook(context, *op, &view);
  if (status == kTfLiteOk) status = CheckShapes(context, op, view.rows, view.cols);
  return status == kTfLiteOk ? DecodeLayout(context, op, view, WantedLayout(*op)) : status;
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
  if (status == kTfLiteOk) status = ReadConvOptions(context, op);
  if (status == kTfLiteOk) status = CheckPackedTensor(context, kPackedConvName, op->packed);
  if (status == kTfLiteOk) status = MakeLayout(context, op, CheckShapes, WantedLayout, MakeLayoutOfBytes);
  if (status != kTfLiteOk) return status;
  const int num_threads = FindWorkers(context, op, ConvPixels(op->shape));
  status = ResizeWorkspace(context, op, ConvWorkspaceBytes(op->layout, op->shape, num_threads, op->x_scale));
  return status == kTfLiteOk ? ResizeOutput(context, *op) : status;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  const auto& op = *static_cast<const PackedConv*>(node->user_data);
  FcCall call;
  if (MakeCall(context, op, ConvPixels(op.shape), &call) != kTfLiteOk) return kTfLiteError;
  if (op.shape.batch != 0) ConvForward(op.layout, op.shape, call);
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
