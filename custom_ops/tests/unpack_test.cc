// The operator that unpacks, behind a fake of the runtime's context: what its tensors are before, while and after.
#include "../tflite/unpack.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "packing.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace
using Bytes = std::vector<uint8_t>;

enum Index { kPackedFloat, kPackedByte, kFloat, kByte, kNumTensors };

Bytes ReadFile(const std::string& name) {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/" + name, std::ios::binary);
  EXPECT(file.good(), "cannot read %s", name.c_str());
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

TfLiteIntArray* NewArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(std::malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  for (size_t i = 0; i < values.size(); ++i) reinterpret_cast<int*>(array)[1 + i] = values[i];
  return array;
}

// One operator with two weights: float32 (17, 29), and uint8 around a zero point as (17, 1, 29).
struct Graph {
  Bytes packed[2] = {ReadFile("tensor_float32_gaps_rans_1.packed"), ReadFile("tensor_uint8_gaps_rans_4.packed")};
  Bytes dense[2] = {ReadFile("tensor_float32_gaps_rans_1.dense"), ReadFile("tensor_uint8_gaps_rans_4.dense")};
  Bytes options = {1, 0, 0, 0, 0, 0, 0, 0};
  TfLiteTensor tensors[kNumTensors] = {};
  TfLiteNode node = {};
  TfLiteRegistration registration = UnpackRegistration();
  TfLiteContext context = {};
  std::string error;

  Graph() {
    Put32(Crc32(0, options.data(), 4), options.data() + 4);
    for (int i : {0, 1}) {
      Set(i, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed[i].size())}, packed[i].size());
      tensors[i].data = packed[i].data();
    }
    Set(kFloat, kTfLiteFloat32, kTfLiteArenaRw, {17, 29}, dense[0].size());
    Set(kByte, kTfLiteUInt8, kTfLiteArenaRw, {17, 1, 29}, dense[1].size());
    node.inputs = NewArray({kPackedFloat, kPackedByte});
    node.outputs = NewArray({kFloat, kByte});
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
    context.ReportError = KeepError;
  }

  ~Graph() {
    Free();
    for (TfLiteTensor& t : tensors) std::free(t.dims);
    std::free(node.inputs);
    std::free(node.outputs);
  }

  void Set(int index, int type, int allocation, const std::vector<int>& dims, size_t bytes) {
    tensors[index].type = type;
    tensors[index].allocation_type = allocation;
    tensors[index].dims = NewArray(dims);
    tensors[index].bytes = bytes;
    tensors[index].name = "t";
  }

  void Init() {
    TfLiteIntArray* replaced = NewArray({0});
    TfLiteDelegateParams params = {nullptr, replaced, nullptr, nullptr};
    node.user_data = registration.init(&context, reinterpret_cast<const char*>(&params), 0);
    std::free(replaced);
  }

  void Free() {
    registration.free(&context, node.user_data);
    node.user_data = nullptr;
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
  bool Says(const char* text) const { return error.find(text) != std::string::npos; }
};

void ExpectUnpacked(const Graph& g) {
  EXPECT(IsUnpacked(&g.context, g.node), "%s", g.error.c_str());
  for (int i : {0, 1}) {
    const TfLiteTensor& t = g.tensors[kFloat + i];
    EXPECT(t.allocation_type == kTfLiteMmapRo && t.data != nullptr, "%d", i);
    if (t.data == nullptr) continue;
    EXPECT(reinterpret_cast<uintptr_t>(t.data) % 64 == 0, "%p", t.data);
    EXPECT(std::memcmp(t.data, g.dense[i].data(), g.dense[i].size()) == 0, "%d", i);
  }
}

void ExpectUntouched(const Graph& g) {
  for (Index i : {kFloat, kByte}) {
    EXPECT(g.tensors[i].allocation_type == kTfLiteArenaRw && g.tensors[i].data == nullptr, "%d", i);
  }
}

// The runtime takes delegates back, and applies them again, for example when an input is resized.
TEST(WeightsComeAndGoWithTheKernel) {
  Graph g;
  for (int round = 0; round < 3; ++round) {
    g.Init();
    ExpectUnpacked(g);
    EXPECT(g.Prepare() && g.registration.invoke(&g.context, &g.node) == kTfLiteOk, "%s", g.error.c_str());
    g.Free();
    ExpectUntouched(g);
  }
}

// What was unpacked before the error is taken back.
TEST(AnErrorInTheLastWeightLeavesNothing) {
  Graph g;
  g.packed[1].back() ^= 1;
  g.Init();
  EXPECT(!IsUnpacked(&g.context, g.node) && g.Says("KerasPruneUnpack: packed weights t:"), "%s", g.error.c_str());
  ExpectUntouched(g);
  EXPECT(!g.Prepare(), "prepared without weights");
  g.packed[1].back() ^= 1;
  g.Init();
  ExpectUnpacked(g);
}

TEST(ATensorThatOthersTookIsLeftAlone) {
  Graph g;
  g.Init();
  int other = 0;
  g.tensors[kFloat].data = &other;
  g.Free();
  EXPECT(g.tensors[kFloat].data == &other && g.tensors[kFloat].allocation_type == kTfLiteMmapRo, "taken back");
  EXPECT(g.tensors[kByte].data == nullptr, "kept");
}

TEST(SizesAreComparedBeforeMemoryIsSpent) {
  Graph g;
  g.tensors[kFloat].bytes -= 4;
  g.Init();
  EXPECT(!IsUnpacked(&g.context, g.node) && g.Says("the runtime has another size for it"), "%s", g.error.c_str());
  ExpectUntouched(g);
  Graph huge;
  for (int dim : {0, 1}) (&huge.tensors[kFloat].dims->data[0])[dim] = INT32_MAX;
  huge.Init();
  EXPECT(!IsUnpacked(&huge.context, huge.node) && huge.Says("expected 17 x 29 values"), "%s", huge.error.c_str());
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
