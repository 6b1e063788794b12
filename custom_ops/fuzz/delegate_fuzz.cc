// The delegate on hostile graphs, with a small fake of the runtime: any options, shapes, types and packed bytes are
// computed or refused.
//
// An input is a head of 64 bytes that describes a graph of one KerasPruneUnpack and one KerasPruneFullyConnected or
// KerasPruneConv2D, and then the bytes of two packed tensors. custom_ops/fuzz/make_seeds.py writes such inputs.
#include <algorithm>
#include <cstdarg>
#include <memory>
#include <vector>

#include "../tflite/packed_conv.h"
#include "../tflite/packed_fc.h"
#include "../tflite/shared.h"
#include "../tflite/unpack.h"
#include "fuzzing.h"

using namespace keras_prune;       // NOLINT(build/namespaces): a test of that namespace
using namespace keras_prune_fuzz;  // NOLINT(build/namespaces)

extern "C" TfLiteDelegate* tflite_plugin_create_delegate(const char* const*, const char* const*, size_t,
                                                         void (*)(const char*));
extern "C" void tflite_plugin_destroy_delegate(TfLiteDelegate*);

namespace {

constexpr uint8_t kInt8Static = 2;  // arithmetic of a layer's options of version 1, which are 12 bytes then

enum Index { kX, kPackedA, kPackedB, kUnpacked, kBias, kY, kNumTensors };
enum Flag : uint8_t {
  kHasUnpack = 1, kHasFc = 2, kOpenY = 4, kOpenUnpacked = 8, kVariable = 16, kScalar = 32, kConv = 64, kNan = 128
};

struct Head {
  uint8_t flags;
  uint8_t unpack_sizes, fc_sizes;  // inputs, and outputs in the high half
  uint8_t type_of, allocation_of;  // a tensor, and in the high half what it gets instead of the usual
  uint8_t options_size;
  uint16_t packed_a;  // bytes of the first packed tensor
  int8_t unpack_inputs[2], unpack_outputs[2], fc_inputs[3], fc_output;
  uint8_t unpack_options[8], fc_options[8];  // a convolution has all 16; a layer's 12 end with the first 4
  uint8_t ranks[4];  // of x, unpacked, bias, y
  int32_t x[2], unpacked[2], bias, y[2];  // of a convolution's x, `unpacked` are the first two
};
static_assert(sizeof(Head) == 64, "as make_seeds.py writes it");

TfLiteIntArray* NewArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  for (size_t i = 0; i < values.size(); ++i) reinterpret_cast<int*>(array)[1 + i] = values[i];
  return array;
}

size_t BytesOf(const TfLiteTensor& t) {
  uint64_t bytes = t.type == kTfLiteFloat16 ? 2 : t.type == kTfLiteUInt8 || t.type == kTfLiteInt8 ? 1 : 4;
  for (int i = 0; i < t.dims->size; ++i) bytes *= static_cast<uint64_t>(std::max(0, (&t.dims->data[0])[i]));
  return static_cast<size_t>(bytes);
}

// The runtime, as far as a delegate sees it.
class Runtime {
 public:
  explicit Runtime(const Head& head, const uint8_t* packed, size_t size)
      : head_(head), a_(packed, std::min<size_t>(size, head.packed_a)), b_(packed + a_.size(), size - a_.size()) {
    context_.tensors_size = kNumTensors;
    context_.tensors = tensors_;
    context_.impl = this;
    context_.ReportError = Report;
    context_.GetExecutionPlan = [](TfLiteContext* c, TfLiteIntArray** plan) {
      *plan = static_cast<Runtime*>(c->impl)->plan_;
      return kTfLiteOk;
    };
    context_.GetNodeAndRegistration = [](TfLiteContext* c, int i, TfLiteNode** node, TfLiteRegistration** r) {
      Node& found = *static_cast<Runtime*>(c->impl)->nodes_[static_cast<size_t>(i)];
      *node = &found.node;
      *r = &found.registration;
      return kTfLiteOk;
    };
    context_.ResizeTensor = Resize;
    context_.ReplaceNodeSubsetsWithDelegateKernels = Replace;
    MakeTensors();
    MakeNodes();
  }

  ~Runtime() {
    for (auto& node : nodes_) {
      if (node->registration.free != nullptr) node->registration.free(&context_, node->node.user_data);
      std::free(node->node.inputs);
      std::free(node->node.outputs);
    }
    for (TfLiteTensor& t : tensors_) {
      FUZZ_EXPECT(&t == &tensors_[kPackedA] || &t == &tensors_[kPackedB] || t.allocation_type != kTfLiteMmapRo ||
                  t.data == values_.data() || t.data == nullptr);  // nothing points into memory that was freed
      std::free(t.dims);
      std::free(const_cast<TfLiteIntArray*>(t.dims_signature));
    }
    std::free(plan_);
  }

  void Run() {
    TfLiteDelegate* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
    FUZZ_EXPECT(delegate != nullptr);
    if ((head_.flags & kScalar) != 0) static_cast<Shared*>(delegate->data)->isa = Isa::kScalar;
    const bool taken = delegate->Prepare(&context_, delegate) == kTfLiteOk;
    for (int batch : {0, 17, 1}) {  // as given, then resized: to tiles of int8, and back to rows
      if (batch != 0 && tensors_[kX].dims->size != 0) tensors_[kX].dims->data[0] = batch;
      if (taken && PrepareAll()) InvokeAll();
    }
    tflite_plugin_destroy_delegate(delegate);
  }

 private:
  struct Node {
    TfLiteNode node;
    TfLiteRegistration registration;
  };

  static void Report(TfLiteContext*, const char* format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
  }

  static TfLiteStatus Resize(TfLiteContext*, TfLiteTensor* t, TfLiteIntArray* dims) {
    std::free(t->dims);
    t->dims = dims;
    t->bytes = BytesOf(*t);
    return kTfLiteOk;
  }

  static TfLiteStatus Replace(TfLiteContext* c, TfLiteRegistration registration, const TfLiteIntArray* replaced,
                              TfLiteDelegate* delegate) {
    auto* self = static_cast<Runtime*>(c->impl);
    TfLiteIntArray one = *replaced;
    const TfLiteNode& old = self->nodes_[static_cast<size_t>(one.data[0])]->node;
    auto made = std::make_unique<Node>();
    made->registration = registration;
    made->node.inputs = NewArray({&old.inputs->data[0], &old.inputs->data[0] + old.inputs->size});
    made->node.outputs = NewArray({&old.outputs->data[0], &old.outputs->data[0] + old.outputs->size});
    const TfLiteDelegateParams params = {delegate, &one, made->node.inputs, made->node.outputs};
    made->node.user_data = registration.init(c, reinterpret_cast<const char*>(&params), 0);
    self->nodes_.push_back(std::move(made));
    return kTfLiteOk;
  }

  void Set(Index index, int type, int allocation, const std::vector<int>& dims) {
    TfLiteTensor& t = tensors_[index];
    t.type = (head_.type_of & 15) == index ? head_.type_of >> 4 : type;
    t.allocation_type = (head_.allocation_of & 15) == index ? head_.allocation_of >> 4 : allocation;
    t.dims = NewArray(dims);
    t.bytes = BytesOf(t);
    t.name = "t";
  }

  static std::vector<int> Dims(int rank, std::vector<int> dims) {
    dims.resize(static_cast<size_t>(rank % 5), 1);
    return dims;
  }

  void MakeTensors() {
    const bool conv = (head_.flags & kConv) != 0;
    const std::vector<int> images = {head_.unpacked[0], head_.unpacked[1], head_.x[0], head_.x[1]};
    const std::vector<int> results = {1, 1, head_.y[0], head_.y[1]};
    Set(kX, kTfLiteFloat32, kTfLiteArenaRw, Dims(head_.ranks[0], {images.begin() + (conv ? 0 : 2), images.end()}));
    Set(kPackedA, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(a_.size())});
    Set(kPackedB, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(b_.size())});
    Set(kUnpacked, kTfLiteFloat32, kTfLiteArenaRw, Dims(head_.ranks[1], {head_.unpacked[0], head_.unpacked[1]}));
    Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, Dims(head_.ranks[2], {head_.bias}));
    Set(kY, kTfLiteFloat32, kTfLiteArenaRw, Dims(head_.ranks[3], {results.begin() + (conv ? 0 : 2), results.end()}));
    tensors_[kPackedA].data = a_.data();
    tensors_[kPackedB].data = b_.data();
    tensors_[kPackedA].bytes = a_.size();  // as in a file, whatever type it has
    tensors_[kPackedB].bytes = b_.size();
    tensors_[kUnpacked].is_variable = (head_.flags & kVariable) != 0;
    if ((head_.flags & kOpenUnpacked) != 0) tensors_[kUnpacked].dims_signature = NewArray({-1, head_.unpacked[1]});
    if ((head_.flags & kOpenY) != 0) tensors_[kY].dims_signature = NewArray({-1, head_.y[1]});
    if (tensors_[kBias].allocation_type == kTfLiteMmapRo && tensors_[kBias].bytes <= values_.size()) {
      tensors_[kBias].data = values_.data();
    }
  }

  void MakeNode(const char* name, const std::vector<int>& inputs, const std::vector<int>& outputs,
                const uint8_t* options, int most_options = 8) {
    auto made = std::make_unique<Node>();
    made->node.inputs = NewArray(inputs);
    made->node.outputs = NewArray(outputs);
    made->node.custom_initial_data = options;
    made->node.custom_initial_data_size = std::min<int>(head_.options_size, most_options);
    made->registration.builtin_code = kTfLiteBuiltinCustom;
    made->registration.custom_name = name;
    nodes_.push_back(std::move(made));
  }

  static std::vector<int> Cut(const int8_t* indices, int size, int most) {
    return std::vector<int>(indices, indices + std::min(size, most));
  }

  void MakeNodes() {
    if ((head_.flags & kHasUnpack) != 0) {
      MakeNode(kUnpackName, Cut(head_.unpack_inputs, head_.unpack_sizes & 15, 2),
               Cut(head_.unpack_outputs, head_.unpack_sizes >> 4, 2), head_.unpack_options);
    }
    if ((head_.flags & kConv) != 0) {
      std::memcpy(long_options_, head_.unpack_options, 8);
      std::memcpy(long_options_ + 8, head_.fc_options, 8);
      MakeNode(kPackedConvName, Cut(head_.fc_inputs, head_.fc_sizes & 15, 3),
               Cut(&head_.fc_output, head_.fc_sizes >> 4, 1), long_options_, 16);
    } else if ((head_.flags & kHasFc) != 0) {
      std::memcpy(long_options_, head_.fc_options, 8);
      std::memcpy(long_options_ + 8, head_.unpack_options, 8);
      const bool is_long = head_.fc_options[0] == 1 && head_.fc_options[3] == kInt8Static;
      MakeNode(kPackedFcName, Cut(head_.fc_inputs, head_.fc_sizes & 15, 3),
               Cut(&head_.fc_output, head_.fc_sizes >> 4, 1), long_options_, is_long ? 12 : 8);
    }
    std::vector<int> plan(nodes_.size());
    for (size_t i = 0; i < plan.size(); ++i) plan[i] = static_cast<int>(i);
    plan_ = NewArray(plan);
  }

  bool PrepareAll() {
    bool ok = true;
    for (auto& node : nodes_) {
      if (ok && node->registration.prepare != nullptr) {
        ok = node->registration.prepare(&context_, &node->node) == kTfLiteOk;
      }
    }
    return ok;
  }

  // With memory as large as the tensors say, unless that is much.
  void InvokeAll() {
    std::vector<std::unique_ptr<Exact>> memory;
    for (Index index : {kX, kY}) {
      TfLiteTensor& t = tensors_[index];
      t.bytes = BytesOf(t);
      if (t.allocation_type == kTfLiteMmapRo || t.bytes > 4 * kMostWeights) return;
      memory.push_back(std::make_unique<Exact>(t.bytes));
      FillFloats(memory.back()->data(), t.bytes, (head_.flags & kNan) != 0);
      t.data = memory.back()->data();
    }
    for (auto& node : nodes_) {
      if (node->registration.invoke != nullptr) node->registration.invoke(&context_, &node->node);
    }
    tensors_[kX].data = tensors_[kY].data = nullptr;
  }

  const Head head_;
  const Exact a_, b_;
  const Exact values_{4096};
  uint8_t long_options_[16] = {};
  TfLiteTensor tensors_[kNumTensors] = {};
  TfLiteContext context_ = {};
  std::vector<std::unique_ptr<Node>> nodes_;
  TfLiteIntArray* plan_ = nullptr;
};

// The shapes that fit the packed bytes.
void FitShapes(Head* head, const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) {
  if (a_size >= kHeaderBytes) {
    head->ranks[1] = 2;
    std::memcpy(head->unpacked, a + 8, 8);
  }
  if (b_size >= kHeaderBytes) {
    head->ranks[0] = head->ranks[3] = 2;
    head->ranks[2] = 1;
    head->x[0] = head->y[0] = 2;
    std::memcpy(&head->x[1], b + 12, 4);
    std::memcpy(&head->y[1], b + 8, 4);
    std::memcpy(&head->bias, b + 8, 4);
  }
}

// Versions are told by their parity; true: version 2, whose activations are int8 with one step of x.
bool FitVersion(uint8_t* version) {
  *version = *version % 2 == 0 ? 2 : 1;
  return *version == 2;
}

// A positive finite float32: most bits are the fuzzer's.
void FitScale(uint8_t* scale) {
  scale[0] |= 1;
  scale[3] &= 0x3F;
}

// Of a convolution with a kernel of up to 3 x 3, where its area divides the columns.
void FitImages(Head* head, const uint8_t* packed) {
  const bool is_static = FitVersion(head->unpack_options);
  uint8_t* kernel = head->unpack_options + (is_static ? 2 : 4);
  uint32_t cols;
  std::memcpy(&cols, packed + 12, 4);
  for (int i : {0, 1}) kernel[i] = static_cast<uint8_t>(kernel[i] % 3 + 1);
  if (cols % (kernel[0] * kernel[1]) != 0) kernel[0] = kernel[1] = 1;
  head->ranks[0] = head->ranks[3] = 4;
  head->unpacked[0] = 1;
  head->unpacked[1] = head->x[0] = 3;
  head->x[1] = static_cast<int32_t>(cols / (kernel[0] * kernel[1]));
  if (!is_static) head->fc_options[2] = head->fc_options[3] = 0;
}

void Seal(uint8_t* options) { Put32(Crc32(0, options, 4), options + 4); }

// Of 16 bytes: all but the checksum.
void SealConv(Head* head) {
  head->options_size = 16;
  if (FitVersion(head->unpack_options)) FitScale(head->fc_options);
  Put32(Crc32(Crc32(0, head->unpack_options, 8), head->fc_options, 4), head->fc_options + 4);
}

// Of version 1, of version 2, and the 12 bytes of version 1.
void SealFc(Head* head) {
  uint8_t *o = head->fc_options, *rest = head->unpack_options;
  head->options_size = 8;
  if (FitVersion(o)) {
    FitScale(o + 4);
    const uint32_t crc = Crc32(Crc32(0, o, 2), o + 4, 4);
    o[2] = static_cast<uint8_t>(crc);
    o[3] = static_cast<uint8_t>(crc >> 8);
  } else if (o[3] != kInt8Static) {
    Seal(o);
  } else {
    head->options_size = 12;  // an operator that unpacks has 8 at most
    if ((head->flags & kHasUnpack) == 0) FitScale(rest);
    Put32(Crc32(Crc32(0, o, 4), rest, 4), o + 4);
  }
}

void SealOptions(Head* head) {
  if ((head->flags & kConv) != 0) return SealConv(head);
  if ((head->flags & kHasUnpack) != 0) {
    head->unpack_options[0] = 1;
    Seal(head->unpack_options);
  }
  SealFc(head);
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (size < sizeof(Head)) return size;
  std::minstd_rand random(seed + 1);
  Head head;
  std::memcpy(&head, data, sizeof head);
  uint8_t* packed = data + sizeof head;
  const size_t a = std::min<size_t>(size - sizeof head, head.packed_a), b = size - sizeof head - a;
  Repair(0, packed, a, &random);
  Repair(0, packed + a, b, &random);
  const bool conv = (head.flags & kConv) != 0;
  if (random() % 4 != 0) {
    FitShapes(&head, packed, a, packed + a, b);
    if (conv && b >= kHeaderBytes) FitImages(&head, packed + a);
  }
  if (random() % 16 != 0) SealOptions(&head);
  std::memcpy(data, &head, sizeof head);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < sizeof(Head)) return 0;
  Head head;
  std::memcpy(&head, data, sizeof head);
  const uint8_t* packed = data + sizeof head;
  const size_t packed_size = size - sizeof head, a = std::min<size_t>(packed_size, head.packed_a);
  // What the tensors and the bytes agree on is allocated.
  if (ClaimedWeights(packed, a) > kMostWeights && head.ranks[1] % 5 != 0) return 0;
  if (ClaimedWeights(packed + a, packed_size - a) > kMostWeights) return 0;
  Runtime(head, packed, packed_size).Run();
  return 0;
}
