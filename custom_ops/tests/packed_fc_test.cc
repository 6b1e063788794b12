// The delegate's operator behind a fake of the runtime's context: what it checks, and when it makes its layout.
#include "../tflite/packed_fc.h"

#include <cmath>

#include "operator_graph.h"

namespace keras_prune_test {
namespace {

Isa BestIsa() {
  bool ok;
  return SelectIsa(&ok);
}

// A graph of one packed operator: x (2, 20), packed, bias (3), y (2, 3).
struct Graph : OperatorGraph {
  Graph() : OperatorGraph(PackedFcRegistration(), BestIsa()) {
    layer = RandomLayer(3, 20, 0.5, 16, 5);
    packed = Pack(layer);
    options = {1, 0, 0, 0, 0, 0, 0, 0};
    Put32(Crc32(0, options.data(), 4), options.data() + 4);
    x = RandomVector(40);
    bias = RandomVector(3);
    y.resize(6);
    Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {2, 20}, x.data(), 160);
    Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, {3}, bias.data(), 12);
    Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {2, 3}, y.data(), 24);
    Init();
  }
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

// 2^31 - 1 rows and as many columns are more bytes than 64 bits can say, and x alone more than 32 can.
TEST(SizesThatNoMemoryHoldsAreRefused) {
  std::vector<uint8_t> packed = Pack({1, 1, {0}, {0.0f}});
  Put32(INT32_MAX, packed.data() + 8);
  Seal(&packed);
  Graph g;
  g.Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {36}, packed.data(), 36);
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {INT32_MAX, 1}, g.x.data(), 8);
  g.Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {INT32_MAX, INT32_MAX}, g.y.data(), 8);
  g.node.inputs->size = 2;
  g.Init();
  const char* want = sizeof(size_t) == 4 ? "input t: too large" : "an output of 2147483647 columns and 2147483647 rows";
  EXPECT(!g.Prepare() && g.Says(want), "%s", g.error.c_str());
}

void Replace(Graph* g, const std::vector<uint8_t>& options) {
  g->options = options;
  g->Init();
}

// Version 1: `arithmetic` is 1 for int8 with a scale for each row.
void AskForDynamic(Graph* g, uint8_t arithmetic = 1) {
  std::vector<uint8_t> options = {1, 0, 0, arithmetic, 0, 0, 0, 0};
  Put32(Crc32(0, options.data(), 4), options.data() + 4);
  Replace(g, options);
}

// The longer options of version 1, arithmetic 2, which version 2 stands for now.
void AskForLong(Graph* g, uint32_t scale, uint8_t arithmetic = 2) {
  std::vector<uint8_t> options = {1, 0, 0, arithmetic, 0, 0, 0, 0, 0, 0, 0, 0};
  Put32(scale, options.data() + 8);
  Put32(Crc32(Crc32(0, options.data(), 4), options.data() + 8, 4), options.data() + 4);
  Replace(g, options);
}

// Version 2: int8 with a scale of these bits.
void AskForStatic(Graph* g, uint32_t scale, uint8_t flags = 0) {
  std::vector<uint8_t> options = {2, flags, 0, 0, 0, 0, 0, 0};
  Put32(scale, options.data() + 4);
  const uint32_t crc = Crc32(Crc32(0, options.data(), 2), options.data() + 4, 4);
  options[2] = static_cast<uint8_t>(crc);
  options[3] = static_cast<uint8_t>(crc >> 8);
  Replace(g, options);
}

TEST(Int8ActivationsAreQuantized) {
  const uint32_t one_64th = 0x3C800000;
  for (int form : {0, 1, 2}) {
    Graph g;
    for (float& v : g.x) v = v > 1.5f ? 1.5f : v < -1.5f ? -1.5f : v;
    g.x[20] = 1.984375f;  // 127 / 64
    form == 0 ? AskForDynamic(&g) : form == 1 ? AskForStatic(&g, one_64th) : AskForLong(&g, one_64th);
    EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
    float largest = 0.0f;
    for (float v : g.layer.codebook) largest = std::fmax(largest, std::fabs(v));
    int sum = 0;
    for (int c = 0; c < 20; ++c) {
      const float w = g.layer.codebook[g.layer.codes[20 + c]] / (largest / 127.0f);
      sum += static_cast<int>(std::lround(w) * std::lround(g.x[20 + c] * 64.0f));
    }
    const float want = static_cast<float>(sum) * (0.015625f * (largest / 127.0f)) + g.bias[1];
    EXPECT(g.y[4] == want, "form %d: %g %g", form, g.y[4], want);
  }
}

TEST(OptionsOfInt8AreChecked) {
  for (uint32_t scale : {0u, 0x80000000u, 0x7F800000u, 0x7FC00000u, 0xBF800000u}) {
    Graph g;
    AskForStatic(&g, scale);
    EXPECT(!g.Prepare() && g.Says("expected a scale above 0"), "%s", g.error.c_str());
  }
  for (size_t at : {1u, 2u, 3u, 5u}) {
    Graph g;
    AskForStatic(&g, 0x3F800000);
    g.options[at] ^= 1;
    g.Init();
    EXPECT(!g.Prepare() && g.Says("checksum"), "%s", g.error.c_str());
  }
  Graph unknown, flags, without, needless, changed;
  AskForDynamic(&unknown, 3);
  EXPECT(!unknown.Prepare() && unknown.Says("unknown arithmetic 3"), "%s", unknown.error.c_str());
  AskForDynamic(&without, 2);
  EXPECT(!without.Prepare() && without.Says("expected 12 bytes of options"), "%s", without.error.c_str());
  AskForLong(&needless, 0x3F800000, 1);
  EXPECT(!needless.Prepare() && needless.Says("expected 8 bytes of options"), "%s", needless.error.c_str());
  AskForLong(&changed, 0x3F800000);
  changed.options[9] ^= 1;
  changed.Init();
  EXPECT(!changed.Prepare() && changed.Says("checksum"), "%s", changed.error.c_str());
  AskForStatic(&flags, 0x3F800000, 8);
  EXPECT(!flags.Prepare() && flags.Says("unknown flags 8"), "%s", flags.error.c_str());
}

TEST(StaticOptionsHaveTheSameFlags) {
  Graph g;
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {2, 1, 20}, g.x.data(), 160);
  AskForStatic(&g, 0x3C800000, 3 | 4);  // ReLU6, keep_num_dims
  for (float& b : g.bias) b = 100.0f;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  EXPECT(g.tensors[kY].dims->size == 3 && g.y[0] == 6.0f, "rank %d, %g", g.tensors[kY].dims->size, g.y[0]);
}

// Newer files may have options of any size: it is the library that is old, and not the file that is wrong.
TEST(NewerVersionsAskForANewerLibrary) {
  for (size_t size : {1u, 8u, 12u, 100u}) {
    Graph g;
    std::vector<uint8_t> options(size);
    options[0] = 3;
    Replace(&g, options);
    EXPECT(!g.Prepare() && g.Says("expected options version 1 or 2, got 3; install a keras_prune that reads it"), "%s",
           g.error.c_str());
  }
}

TEST(AnEmptyBatchNeedsNoMemory) {
  Graph g;
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {0, 20}, nullptr, 0);
  g.tensors[kY].data = nullptr;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
}

// A layer that is large enough for threads at any batch.
struct LargeGraph : Graph {
  static constexpr int kRows = 700, kCols = 900;
  LargeGraph() {
    layer = RandomLayer(kRows, kCols, 0.9, 16, 6);
    packed = Pack(layer);
    bias = RandomVector(kRows);
    Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, {kRows}, bias.data(), kRows * sizeof(float));
  }

  // The results for a batch, or none after an error.
  std::vector<float> Compute(int batch, int num_threads) {
    x = RandomVector(static_cast<uint32_t>(batch * kCols));
    y.assign(static_cast<size_t>(batch) * kRows, -7.0f);
    Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {batch, kCols}, x.data(), x.size() * sizeof(float));
    Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {batch, kRows}, y.data(), y.size() * sizeof(float));
    context.recommended_num_threads = num_threads;
    const bool ok = Prepare() && Invoke();
    EXPECT(ok, "%s", error.c_str());
    return ok ? y : std::vector<float>();
  }
};

TEST(ResultsAreTheSameForAnyNumberOfThreads) {
  LargeGraph g;
  for (int batch : {1, 2, 5, 64, 67}) {
    const std::vector<float> want = g.Compute(batch, 1);
    for (int num_threads : {-1, 0, 2, 3, 7}) {
      EXPECT(g.Compute(batch, num_threads) == want, "batch %d, %d threads", batch, num_threads);
    }
  }
}

// The layout and the workspace are those of the batch, whatever came before.
TEST(ResultsAreTheSameAfterAResize) {
  std::vector<std::vector<float>> want;
  for (int batch : {1, 64, 0}) want.push_back(LargeGraph().Compute(batch, 3));
  LargeGraph g;
  for (int round = 0; round < 2; ++round) {
    EXPECT(g.Compute(1, 3) == want[0], "batch 1, round %d", round);
    EXPECT(g.Compute(64, 3) == want[1], "batch 64, round %d", round);
    EXPECT(g.Compute(0, 3) == want[2], "batch 0, round %d", round);
  }
}

// The pool is the delegate's: operators and interpreters with the same number of threads share it.
TEST(ThreadsAreShared) {
  Shared shared = {Isa::kScalar, 3, nullptr};
  TfLiteContext one = {}, two = {}, many = {}, unset = {};
  one.recommended_num_threads = 1;
  two.recommended_num_threads = 2;
  many.recommended_num_threads = 99;
  unset.recommended_num_threads = -1;
  EXPECT(WorkersFor(&shared, one) == nullptr && WorkersFor(&shared, unset) == nullptr, "threads for one");
  Workers* pair = WorkersFor(&shared, two);
  Workers* most = WorkersFor(&shared, many);
  EXPECT(NumThreads(pair) == 2 && NumThreads(most) == 3, "%d and %d", NumThreads(pair), NumThreads(most));
  EXPECT(WorkersFor(&shared, two) == pair && WorkersFor(&shared, many) == most, "pools that are there are not used");
  FreePools(&shared);
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
