// A graph of one operator on packed weights, behind a fake of the runtime's context.
#ifndef KERAS_PRUNE_TESTS_OPERATOR_GRAPH_H_
#define KERAS_PRUNE_TESTS_OPERATOR_GRAPH_H_

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../kernels/isa.h"
#include "../tflite/shared.h"
#include "stream_coding.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

enum Index { kX, kPacked, kBias, kY, kNumTensors };

inline TfLiteIntArray* NewArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  for (size_t i = 0; i < values.size(); ++i) reinterpret_cast<int*>(array)[1 + i] = values[i];
  return array;
}

inline bool HasShape(const TfLiteTensor& t, const std::vector<int>& dims) {
  const int* first = t.dims->data;
  return std::vector<int>(first, first + t.dims->size) == dims;
}

// What an operator's own graph fills: the layer, its options and its tensors; then Init.
struct OperatorGraph {
  Layer layer;
  Bytes packed, options;
  std::vector<float> x, bias, y;
  TfLiteTensor tensors[kNumTensors] = {};
  TfLiteNode node = {};
  TfLiteRegistration registration;
  TfLiteContext context = {};
  Shared shared;
  std::string error;

  OperatorGraph(const TfLiteRegistration& of, Isa isa) : registration(of), shared{isa, 3, nullptr} {
    node.inputs = NewArray({kX, kPacked, kBias});
    node.outputs = NewArray({kY});
    context.tensors_size = kNumTensors;
    context.tensors = tensors;
    context.impl = this;
    context.GetNodeAndRegistration = [](TfLiteContext* c, int, TfLiteNode** n, TfLiteRegistration** r) {
      *n = &static_cast<OperatorGraph*>(c->impl)->node;
      *r = &static_cast<OperatorGraph*>(c->impl)->registration;
      return kTfLiteOk;
    };
    context.ResizeTensor = [](TfLiteContext*, TfLiteTensor* t, TfLiteIntArray* dims) {
      std::free(t->dims);
      t->dims = dims;
      return kTfLiteOk;
    };
    context.ReportError = KeepError;
    context.recommended_num_threads = -1;
  }
  OperatorGraph(const OperatorGraph&) = delete;
  OperatorGraph& operator=(const OperatorGraph&) = delete;

  ~OperatorGraph() {
    registration.free(&context, node.user_data);
    FreePools(&shared);
    for (TfLiteTensor& t : tensors) std::free(t.dims);
    std::free(node.inputs);
    std::free(node.outputs);
  }

  // Again after the node or its options were changed.
  void Init() {
    node.custom_initial_data = options.data();
    node.custom_initial_data_size = static_cast<int>(options.size());
    TfLiteDelegate delegate = {};
    delegate.data = &shared;
    TfLiteIntArray* replaced = NewArray({0});
    TfLiteDelegateParams params = {&delegate, replaced, nullptr, nullptr};
    registration.free(&context, node.user_data);
    node.user_data = registration.init(&context, reinterpret_cast<const char*>(&params), 0);
    std::free(replaced);
  }

  void Set(Index index, int type, int allocation, const std::vector<int>& dims, void* data, size_t bytes) {
    TfLiteTensor& t = tensors[index];
    std::free(t.dims);
    t.type = type;
    t.allocation_type = allocation;
    t.dims = NewArray(dims);
    t.data = data;
    t.bytes = bytes;
    t.name = "t";
  }

  static void KeepError(TfLiteContext* context, const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    static_cast<OperatorGraph*>(context->impl)->error = text;
  }

  bool Prepare() { return registration.prepare(&context, &node) == kTfLiteOk; }
  bool Invoke() { return registration.invoke(&context, &node) == kTfLiteOk; }
  bool Says(const char* text) const { return error.find(text) != std::string::npos; }
};

}  // namespace
}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_OPERATOR_GRAPH_H_
