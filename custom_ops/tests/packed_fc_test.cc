// The delegate's operator behind a fake of the runtime's context: what it checks, and when it makes its layout.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../tflite/packed_fc.h"
#include "packing.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

enum Index { kX, kPacked, kBias, kY, kNumTensors };

TfLiteIntArray* NewArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  for (size_t i = 0; i < values.size(); ++i) reinterpret_cast<int*>(array)[1 + i] = values[i];
  return array;
}

// A graph of one packed operator: x (2, 20), packed, bias (3), y (2, 3).
struct Graph {
  Layer layer = RandomLayer(3, 20, 0.5, 16, 5);
  std::vector<uint8_t> packed = Pack(layer);
  std::vector<float> x = RandomVector(40), bias = RandomVector(3), y = std::vector<float>(6);
  std::vector<uint8_t> options = {1, 0, 0, 0, 0, 0, 0, 0};
  TfLiteTensor tensors[kNumTensors] = {};
  TfLiteNode node = {};
  TfLiteRegistration registration = PackedFcRegistration();
  TfLiteContext context = {};
  Isa isa = Isa::kScalar;
  std::string error;

  Graph() {
    Put32(Crc32(0, options.data(), 4), options.data() + 4);
    Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {2, 20}, x.data(), 160);
    Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, {3}, bias.data(), 12);
    Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {2, 3}, y.data(), 24);
    node.inputs = NewArray({kX, kPacked, kBias});
    node.outputs = NewArray({kY});
    node.custom_initial_data = options.data();
    node.custom_initial_data_size = static_cast<int>(options.size());
    context.tensors_size = kNumTensors;
    context.tensors = tensors;
    context.impl = this;
    context.GetNodeAndRegistration = [](TfLiteContext* c, int, TfLiteNode** n, TfLiteRegistration** r) {
      *n = &static_cast<Graph*>(c->impl)->node;
      *r = &static_cast<Graph*>(c->impl)->registration;
      return kTfLiteOk;
    };
    context.ResizeTensor = [](TfLiteContext*, TfLiteTensor* t, TfLiteIntArray* dims) {
      std::free(t->dims);
      t->dims = dims;
      return kTfLiteOk;
    };
    context.ReportError = KeepError;
    Init();
  }

  ~Graph() {
    registration.free(&context, node.user_data);
    for (TfLiteTensor& t : tensors) std::free(t.dims);
    std::free(node.inputs);
    std::free(node.outputs);
  }

  // Again after the node was changed.
  void Init() {
    TfLiteDelegate delegate = {};
    delegate.data = &isa;
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
    static_cast<Graph*>(context->impl)->error = text;
  }

  bool Prepare() { return registration.prepare(&context, &node) == kTfLiteOk; }
  bool Invoke() { return registration.invoke(&context, &node) == kTfLiteOk; }
  bool Says(const char* text) const { return error.find(text) != std::string::npos; }
};

TEST(PreparesAndComputes) {
  Graph g;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  double want = g.bias[1];
  for (int c = 0; c < 20; ++c) want += g.layer.codebook[g.layer.codes[20 + c]] * g.x[20 + c];
  EXPECT(std::abs(g.y[4] - want) < 1e-4, "%g %g", g.y[4], want);
}

// Bytes that change in the same place would be found corrupt if they were read again.
TEST(TheLayoutIsMadeOnce) {
  Graph g;
  EXPECT(g.Prepare(), "%s", g.error.c_str());
  g.packed.back() ^= 1;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  std::vector<uint8_t> moved = g.packed;
  g.tensors[kPacked].data = moved.data();
  EXPECT(!g.Prepare() && g.Says("checksum"), "%s", g.error.c_str());
  moved.back() ^= 1;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
}

TEST(AConstantOutputIsRefused) {
  for (int allocation : {kTfLiteMmapRo, kTfLitePersistentRo}) {
    Graph g;
    g.tensors[kY].allocation_type = allocation;
    EXPECT(!g.Prepare() && g.Says("output t: expected a tensor to write to"), "%s", g.error.c_str());
  }
}

TEST(ABiasWithoutValuesIsRefused) {
  Graph g;
  g.tensors[kBias].data = nullptr;
  EXPECT(!g.Prepare() && g.Says("bias t: expected values"), "%s", g.error.c_str());
  g.tensors[kBias].allocation_type = kTfLiteArenaRw;  // may be computed later
  EXPECT(g.Prepare(), "%s", g.error.c_str());
  EXPECT(!g.Invoke() && g.Says("bias t: expected values"), "%s", g.error.c_str());
  g.tensors[kBias].data = g.bias.data();
  EXPECT(g.Invoke(), "%s", g.error.c_str());
}

// The claims of a header are compared with the tensors before a layout is made.
TEST(ClaimedSizesAreChecked) {
  Layer one{1, 1, {0}, {0.0f}};
  std::vector<uint8_t> packed = Pack(one);
  Put32(INT32_MAX, packed.data() + 8);
  Seal(&packed);
  for (bool with_bias : {true, false}) {
    for (bool has_signature : {true, false}) {
      Graph g;
      g.Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {36}, packed.data(), 36);
      g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {2, 1}, g.x.data(), 8);
      if (with_bias) {
        EXPECT(!g.Prepare() && g.Says("bias t: expected shape [2147483647]"), "%s", g.error.c_str());
        continue;
      }
      g.node.inputs->size = 2;
      g.Init();
      TfLiteIntArray* signature = NewArray({-1, 3});
      if (has_signature) g.tensors[kY].dims_signature = signature;
      EXPECT(!g.Prepare() && g.Says("output t: expected a last dimension of 2147483647"), "%s", g.error.c_str());
      std::free(signature);
    }
  }
}

TEST(AnEmptyBatchNeedsNoMemory) {
  Graph g;
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {0, 20}, nullptr, 0);
  g.tensors[kY].data = nullptr;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
