#include "unpack.h"

#include <stdlib.h>

#include "../tensor_format.h"
#include "checks.h"

namespace keras_prune {
namespace {

// Vector code may read past a constant's end (XNNPACK does, up to 64 bytes on today's CPUs).
constexpr size_t kReadPastEnd = 128;
constexpr size_t kTensorAlignment = 64;  // as the runtimes allocate tensors

// One decoded tensor.
struct Constant {
  int tensor;
  void* data;
};

struct Unpack {
  int num_constants;
  Constant constants[1];  // the first of as many as there are outputs
};

#define KP_REQUIRE(condition, ...) KP_CHECK(condition, "KerasPruneUnpack: " __VA_ARGS__)

// The runtime's type of a stored one.
int32_t TypeOf(ElementType element) {
  constexpr int32_t kTypes[] = {kTfLiteFloat32, kTfLiteFloat16, kTfLiteInt8, kTfLiteUInt8};
  return kTypes[static_cast<int>(element)];
}

TfLiteStatus CheckNode(TfLiteContext* context, const TfLiteNode& node) {
  if (CheckOptions(context, kUnpackName, ReadOptions(node)) != kTfLiteOk) return kTfLiteError;
  const auto* options = static_cast<const uint8_t*>(node.custom_initial_data);
  KP_REQUIRE(options[1] == 0 && options[2] == 0 && options[3] == 0,
             "unknown flags %d %d %d; install a keras_prune that reads them", options[1], options[2], options[3]);
  KP_REQUIRE(
      node.inputs->size == node.outputs->size && node.inputs->size > 0,
      "expected as many outputs as inputs and at least one, got %d inputs and %d outputs; export the model again",
      node.inputs->size, node.outputs->size);
  for (int i = 0; i < node.inputs->size; ++i) {
    KP_REQUIRE(TensorExists(context, node.inputs->data[i]) && TensorExists(context, node.outputs->data[i]),
               "input or output %d is missing; export the model again", i);
  }
  return kTfLiteOk;
}

// What the graph says of an output is compared with what the packed bytes claim, before memory is spent on it.
TfLiteStatus CheckOutput(TfLiteContext* context, const TfLiteTensor& y, const TensorView& view) {
  KP_REQUIRE(y.type == TypeOf(view.element) || (y.type == kTfLiteFloat32 && view.element == ElementType::kFloat16),
             "output %s: expected type %d as the packed weights have, got %d; export the model again", NameOf(y),
             TypeOf(view.element), y.type);
  KP_REQUIRE(!y.is_variable && y.allocation_type == kTfLiteArenaRw,
             "output %s: expected a tensor that only this operator writes, got a constant, a variable or a tensor of "
             "unknown shape; export the model again",
             NameOf(y));
  KP_REQUIRE(y.dims != nullptr && y.dims->size > 0, "output %s: expected a shape, got none; export the model again",
             NameOf(y));
  uint64_t values = 1;
  for (int i = 0; i < y.dims->size; ++i) {
    const bool is_open = y.dims_signature != nullptr && i < y.dims_signature->size && y.dims_signature->data[i] < 0;
    KP_REQUIRE(y.dims->data[i] >= 0 && !is_open,
               "output %s: expected a fixed shape, got an open dimension %d; export again", NameOf(y), i);
    KP_REQUIRE(!__builtin_mul_overflow(values, static_cast<uint64_t>(y.dims->data[i]), &values), "output %s: too large",
               NameOf(y));
  }
  KP_REQUIRE(values == uint64_t{view.rows} * view.cols,
             "output %s: expected %u x %u values as the packed weights have, got %u; export the model again", NameOf(y),
             view.rows, view.cols, static_cast<unsigned>(values < UINT32_MAX ? values : UINT32_MAX));
  const size_t element_bytes = y.type == kTfLiteFloat32 ? 4 : ElementBytes(view.element);
  KP_REQUIRE(y.bytes / element_bytes == values && y.bytes % element_bytes == 0,
             "output %s: the runtime has another size for it than its shape says; export the model again", NameOf(y));
  return kTfLiteOk;
}

TfLiteStatus UnpackOne(TfLiteContext* context, int from, int to, Constant* constant) {
  if (CheckPackedTensor(context, kUnpackName, from) != kTfLiteOk) return kTfLiteError;
  const TfLiteTensor& packed = context->tensors[from];
  TfLiteTensor* y = &context->tensors[to];
  TensorView view;
  Status status = ParseTensor(static_cast<const uint8_t*>(packed.data), packed.bytes, &view);
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(packed), StatusMessage(status));
  if (CheckOutput(context, *y, view) != kTfLiteOk) return kTfLiteError;
  KP_REQUIRE(y->bytes <= PTRDIFF_MAX - kReadPastEnd &&
                 posix_memalign(&constant->data, kTensorAlignment, y->bytes + kReadPastEnd) == 0,
             "output %s: %s", NameOf(*y), StatusMessage(Status::kOutOfMemory));
  status = UnpackTensor(view, y->type == kTfLiteFloat32 ? ElementType::kFloat32 : view.element, constant->data);
  if (status != Status::kOk) {
    free(constant->data);
    constant->data = nullptr;
  }
  KP_REQUIRE(status == Status::kOk, "packed weights %s: %s", NameOf(packed), StatusMessage(status));
  constant->tensor = to;
  y->data = constant->data;
  y->allocation_type = kTfLiteMmapRo;
  return kTfLiteOk;
}

TfLiteStatus UnpackAll(TfLiteContext* context, const TfLiteNode& node, Unpack* op) {
  for (int i = 0; i < node.inputs->size; ++i) {
    if (UnpackOne(context, node.inputs->data[i], node.outputs->data[i], &op->constants[i]) != kTfLiteOk) {
      return kTfLiteError;
    }
    op->num_constants = i + 1;
  }
  return kTfLiteOk;
}

// The tensors are as they were in the file: the runtime may take delegates back and apply them again.
void Free(TfLiteContext* context, void* buffer) {
  auto* op = static_cast<Unpack*>(buffer);
  if (op == nullptr) return;
  for (int i = 0; i < op->num_constants; ++i) {
    const Constant& constant = op->constants[i];
    TfLiteTensor* tensor = &context->tensors[constant.tensor];
    if (tensor->data == constant.data) {
      tensor->data = nullptr;
      tensor->allocation_type = kTfLiteArenaRw;
    }
    free(constant.data);
  }
  free(op);
}

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk ||
      CheckNode(context, *node) != kTfLiteOk) {
    return nullptr;
  }
  static_assert(sizeof(Unpack) <= 2 * sizeof(Constant), "the head has room in one");
  auto* op = static_cast<Unpack*>(calloc(static_cast<size_t>(node->inputs->size) + 1, sizeof(Constant)));
  if (op != nullptr && UnpackAll(context, *node, op) != kTfLiteOk) {
    Free(context, op);
    return nullptr;
  }
  return op;
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  KP_REQUIRE(node->user_data != nullptr, "the weights could not be unpacked; free memory or export the model again");
  return kTfLiteOk;
}

TfLiteStatus Invoke(TfLiteContext*, TfLiteNode*) { return kTfLiteOk; }

}  // namespace

bool IsUnpacked(const TfLiteContext* context, const TfLiteNode& node) {
  for (int i = 0; i < node.outputs->size; ++i) {
    const int output = node.outputs->data[i];
    if (!TensorExists(context, output) || !IsConstant(context->tensors[output])) return false;
  }
  return node.outputs->size > 0;
}

TfLiteRegistration UnpackRegistration() {
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
