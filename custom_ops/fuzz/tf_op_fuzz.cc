// The TensorFlow op on hostile inputs, with a small fake of TensorFlow's C API: any shapes, types and packed bytes are
// computed or refused.
//
// An input is a head of 16 bytes that describes a call, and then the packed bytes. custom_ops/fuzz/make_seeds.py writes
// such inputs.
#include <algorithm>
#include <memory>
#include <vector>

#include "../tf/tf_c_api.h"
#include "fuzzing.h"

using namespace keras_prune;       // NOLINT(build/namespaces): a test of that namespace
using namespace keras_prune_fuzz;  // NOLINT(build/namespaces)

struct TF_Status {
  int code = kTfOk;
};

struct TF_Tensor {
  std::shared_ptr<Exact> memory;
  int type;
  std::vector<int64_t> dims;
};

struct TF_OpKernelContext {
  const TF_Tensor* inputs[2];
  bool failed;
};

struct TF_OpKernelConstruction {
  bool transpose, is_int8;
  float x_scale;
  int64_t rows, cols;
  bool failed;
};

namespace {

struct Head {
  uint8_t flags;  // 1: transpose, 2: rows and cols are attributes, 4: the packed tensor has rank 2, 8: int8, 16: NaN,
                  // 32: one step of x
  uint8_t rank, x_type, packed_type;
  int32_t batch, last;
  int16_t rows, cols;
};
static_assert(sizeof(Head) == 16, "as make_seeds.py writes it");

constexpr int64_t kMostValues = 1 << 14;  // in a row of x
constexpr int32_t kMostRows = 33;         // a tile and one more

KpCreateFunction create;
KpComputeFunction compute;
KpDeleteFunction destroy;

TF_Tensor NewTensor(int type, const std::vector<int64_t>& dims, const uint8_t* data, size_t size) {
  return {std::make_shared<Exact>(data, size), type, dims};
}

}  // namespace

namespace keras_prune {

TfApi tf;  // in place of tf_c_api.cc

// Called when the op registers itself, before main.
const char* LoadTfApi() {
  tf.TF_NewStatus = [] { return new TF_Status; };
  tf.TF_DeleteStatus = [](TF_Status* s) { delete s; };
  tf.TF_SetStatus = [](TF_Status* s, int code, const char*) { s->code = code; };
  tf.TF_GetCode = [](const TF_Status* s) { return s->code; };
  tf.TF_DeleteTensor = [](TF_Tensor* t) { delete t; };
  tf.TF_TensorMaybeMove = [](TF_Tensor* t) -> TF_Tensor* {
    if (t->memory.use_count() != 1) return nullptr;
    auto* moved = new TF_Tensor(*t);
    delete t;
    return moved;
  };
  tf.TF_TensorData = [](const TF_Tensor* t) -> void* { return t->memory->data(); };
  tf.TF_TensorByteSize = [](const TF_Tensor* t) { return t->memory->size(); };
  tf.TF_TensorType = [](const TF_Tensor* t) { return t->type; };
  tf.TF_NumDims = [](const TF_Tensor* t) { return static_cast<int>(t->dims.size()); };
  tf.TF_Dim = [](const TF_Tensor* t, int axis) { return t->dims[static_cast<size_t>(axis)]; };
  tf.TF_GetRegisteredKernelsForOp = [](const char*, TF_Status*) -> TF_Buffer* { return nullptr; };
  tf.TF_NewOpDefinitionBuilder = [](const char*) -> TF_OpDefinitionBuilder* { return nullptr; };
  tf.TF_OpDefinitionBuilderAddInput = [](TF_OpDefinitionBuilder*, const char*) {};
  tf.TF_OpDefinitionBuilderAddOutput = [](TF_OpDefinitionBuilder*, const char*) {};
  tf.TF_OpDefinitionBuilderAddAttr = [](TF_OpDefinitionBuilder*, const char*) {};
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction = [](TF_OpDefinitionBuilder*, KpShapeFunction) {};
  tf.TF_RegisterOpDefinition = [](TF_OpDefinitionBuilder*, TF_Status*) {};
  tf.TF_RegisterKernelBuilder = [](const char*, TF_KernelBuilder*, TF_Status*) {};
  tf.TF_NewKernelBuilder = [](const char*, const char*, KpCreateFunction c, KpComputeFunction f,
                              KpDeleteFunction d) -> TF_KernelBuilder* {
    create = c;
    compute = f;
    destroy = d;
    return nullptr;
  };
  tf.TF_OpKernelConstruction_GetAttrBool = [](TF_OpKernelConstruction* c, const char*, unsigned char* value,
                                              TF_Status*) { *value = c->transpose; };
  tf.TF_OpKernelConstruction_GetAttrInt64 = [](TF_OpKernelConstruction* c, const char* name, int64_t* value,
                                               TF_Status*) { *value = name[0] == 'r' ? c->rows : c->cols; };
  tf.TF_OpKernelConstruction_GetAttrFloat = [](TF_OpKernelConstruction* c, const char*, float* value, TF_Status*) {
    *value = c->x_scale;
  };
  tf.TF_OpKernelConstruction_GetAttrString = [](TF_OpKernelConstruction* c, const char*, char* value, size_t size,
                                                TF_Status*) {
    std::strncpy(value, c->is_int8 ? "int8" : "float32", size);
  };
  tf.TF_OpKernelConstruction_Failure = [](TF_OpKernelConstruction* c, TF_Status*) { c->failed = true; };
  tf.TF_OpKernelContext_Failure = [](TF_OpKernelContext* c, TF_Status*) { c->failed = true; };
  tf.TF_GetInput = [](TF_OpKernelContext* c, int index, TF_Tensor** t, TF_Status*) {
    *t = new TF_Tensor(*c->inputs[index]);
  };
  tf.TF_AllocateOutput = [](TF_OpKernelContext*, int, int type, const int64_t* dims, int rank, size_t num_bytes,
                            TF_Status* status) -> TF_Tensor* {
    if (num_bytes > kMostWeights) {
      status->code = kTfResourceExhausted;
      return nullptr;
    }
    return new TF_Tensor{std::make_shared<Exact>(num_bytes), type, std::vector<int64_t>(dims, dims + rank)};
  };
  return nullptr;
}

}  // namespace keras_prune

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (size < sizeof(Head) + kHeaderBytes) return size;
  std::minstd_rand random(seed + 1);
  uint8_t* packed = data + sizeof(Head);
  Repair(1 + static_cast<int>(random() % 2), packed, size - sizeof(Head), &random);
  if (random() % 4 != 0) {  // what fits the packed bytes
    Head head;
    std::memcpy(&head, data, sizeof head);
    head.rank = 2 + head.rank % 3;
    head.x_type = kTfFloat;
    head.packed_type = kTfUint8;
    head.flags &= 1 | 8 | 16 | 32;
    if ((head.flags & 8) == 0) head.flags &= 1 | 16;
    std::memcpy(&head.last, packed + ((head.flags & 1) != 0 ? 8 : 12), 4);
    if (packed[4] == 2) {  // whose sizes must both be said
      head.flags |= 2;
      std::memcpy(&head.rows, packed + 8, 2);
      std::memcpy(&head.cols, packed + 12, 2);
    }
    std::memcpy(data, &head, sizeof head);
  }
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < sizeof(Head)) return 0;
  Head head;
  std::memcpy(&head, data, sizeof head);
  const uint8_t* bytes = data + sizeof head;
  size -= sizeof head;
  const int64_t batch = std::clamp(head.batch, 0, kMostRows), last = std::max(head.last, 0);
  if (last > kMostValues || ClaimedWeights(bytes, size) > (uint64_t{1} << 26)) return 0;
  std::vector<int64_t> dims(head.rank % 6, 1);
  if (!dims.empty()) dims.back() = last;
  if (dims.size() > 1) dims.front() = batch;
  const size_t values = static_cast<size_t>(dims.size() > 1 ? batch * last : dims.empty() ? 1 : last);
  std::vector<uint8_t> floats(values * sizeof(float));
  FillFloats(floats.data(), floats.size(), (head.flags & 16) != 0);
  const TF_Tensor x = NewTensor(head.x_type, dims, floats.data(), floats.size());
  const auto length = static_cast<int64_t>(size);
  const std::vector<int64_t> shape =
      (head.flags & 4) != 0 ? std::vector<int64_t>{1, length} : std::vector<int64_t>{length};
  const TF_Tensor packed = NewTensor(head.packed_type, shape, bytes, size);
  const bool has_sizes = (head.flags & 2) != 0;
  TF_OpKernelConstruction construction = {(head.flags & 1) != 0,           (head.flags & 8) != 0,
                                          (head.flags & 32) != 0 ? .01f : 0, has_sizes ? head.rows : -1,
                                          has_sizes ? head.cols : -1,      false};
  void* kernel = create(&construction);
  FUZZ_EXPECT((kernel == nullptr) == construction.failed);
  if (kernel == nullptr) return 0;
  for (int call = 0; call < 2; ++call) {  // the second finds the layout of the first
    TF_OpKernelContext context = {{&x, &packed}, false};
    compute(kernel, &context);
  }
  destroy(kernel);
  return 0;
}
