// A small fake of the runtime, as far as a delegate sees it, that runs an input's graph.
#ifndef KERAS_PRUNE_FUZZ_FAKE_RUNTIME_H_
#define KERAS_PRUNE_FUZZ_FAKE_RUNTIME_H_

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../tflite/packed_conv.h"
#include "../tflite/packed_fc.h"
#include "../tflite/shared.h"
#include "../tflite/unpack.h"
#include "fuzzing.h"
#include "graph_head.h"

extern "C" TfLiteDelegate* tflite_plugin_create_delegate(const char* const*, const char* const*, size_t,
                                                         void (*)(const char*));
extern "C" void tflite_plugin_destroy_delegate(TfLiteDelegate*);

namespace keras_prune_fuzz {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

inline TfLiteIntArray* NewArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  for (size_t i = 0; i < values.size(); ++i) reinterpret_cast<int*>(array)[1 + i] = values[i];
  return array;
}

inline size_t BytesOf(const TfLiteTensor& t) {
  uint64_t bytes = t.type == kTfLiteFloat16 ? 2 : t.type == kTfLiteUInt8 || t.type == kTfLiteInt8 ? 1 : 4;
  for (int i = 0; i < t.dims->size; ++i) bytes *= static_cast<uint64_t>(std::max(0, (&t.dims->data[0])[i]));
  return static_cast<size_t>(bytes);
}

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

}  // namespace keras_prune_fuzz

#endif  // KERAS_PRUNE_FUZZ_FAKE_RUNTIME_H_
