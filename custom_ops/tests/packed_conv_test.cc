// The delegate's convolution behind a fake of the runtime's context: what it checks, and when it makes its layout.
#include "../tflite/packed_conv.h"

#include <algorithm>
#include <cmath>

#include "operator_graph.h"

namespace keras_prune_test {
namespace {

// Version 2, all codes stored.
Bytes PackTensor(const Layer& layer) {
  Bytes packed = {'K', 'P', 'R', 'I', 2, 0, 0, 0};
  const auto units = static_cast<uint32_t>(layer.codes.size()), size = static_cast<uint32_t>(layer.codebook.size());
  for (uint32_t value : {layer.rows, layer.cols, 1u | 1u << 16, units, size << 16, 0u, 0u}) Append32(value, &packed);
  for (size_t i = 1; i < layer.codebook.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &layer.codebook[i], 4);
    Append32(bits, &packed);
  }
  const Bytes codes = EncodeFixed(layer.codes, 8);
  packed.insert(packed.end(), codes.begin(), codes.end());
  Put32(static_cast<uint32_t>(packed.size()), packed.data() + 28);
  Seal(&packed);
  return packed;
}

// A graph of one operator: x (1, 4, 5, 3), packed (6, 2 * 3 * 3), bias (6), y (1, 4, 5, 6); "same", no activation.
struct Graph : OperatorGraph {
  Graph() : OperatorGraph(PackedConvRegistration(), Isa::kScalar) {
    layer = RandomLayer(6, 18, 0.5, 16, 5);
    packed = PackTensor(layer);
    options = {1, 0, 0, 0, 2, 3, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0};
    x = RandomVector(60);
    bias = RandomVector(6);
    y.resize(120);
    Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 5, 3}, x.data(), 240);
    Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, {6}, bias.data(), 24);
    Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 5, 6}, y.data(), 480);
    InitSealed();
  }

  // With a right checksum.
  void InitSealed() {
    if (options.size() >= 16) Put32(Crc32(0, options.data(), 12), options.data() + 12);
    Init();
  }

  // With one option changed.
  bool PreparesWith(size_t at, uint8_t value) {
    options[at] = value;
    InitSealed();
    return Prepare();
  }
};

// With a stride of 1, of "same" padding for a 2 x 3 kernel none is above, one column on the left.
TEST(PreparesAndComputes) {
  Graph g;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  EXPECT(HasShape(g.tensors[kY], {1, 4, 5, 6}), "shape");
  for (int row : {0, 3}) {
    for (int column : {0, 2, 4}) {
      double want = g.bias[1];
      for (int i = 0; i < 18; ++i) {
        const int y = row + i / 9, x = column + i / 3 % 3 - 1;
        if (y < 4 && x >= 0 && x < 5) want += g.layer.codebook[g.layer.codes[18 + i]] * g.x[(y * 5 + x) * 3 + i % 3];
      }
      const float got = g.y[(row * 5 + column) * 6 + 1];
      EXPECT(std::fabs(got - want) < 1e-4, "%d %d: %g %g", row, column, got, want);
    }
  }
}

TEST(TheLayoutIsMadeOnce) {
  Graph g;
  EXPECT(g.Prepare(), "%s", g.error.c_str());
  g.packed.back() ^= 1;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  Bytes moved = g.packed;
  g.tensors[kPacked].data = moved.data();
  EXPECT(!g.Prepare() && g.Says("checksum"), "%s", g.error.c_str());
  moved.back() ^= 1;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
}

TEST(OutputsHaveTheSizesOfTFLite) {
  struct {
    int padding, stride, dilation, in, want;
  } const cases[] = {{0, 1, 1, 5, 5}, {0, 2, 1, 5, 3}, {0, 3, 2, 7, 3}, {1, 1, 1, 5, 3},
                     {1, 2, 1, 6, 2}, {1, 1, 2, 5, 1}, {1, 2, 2, 8, 2}, {0, 9, 1, 5, 1}};
  for (const auto& c : cases) {
    Graph g;
    std::vector<float> x(static_cast<size_t>(c.in * c.in * 3)), y(static_cast<size_t>(c.in * c.in * 6));
    g.layer = RandomLayer(6, 27, 0.5, 16, 5);
    g.packed = PackTensor(g.layer);
    g.Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(g.packed.size())}, g.packed.data(), g.packed.size());
    g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, c.in, c.in, 3}, x.data(), x.size() * 4);
    g.tensors[kY].data = y.data();
    g.options[2] = static_cast<uint8_t>(c.padding);
    g.options[4] = g.options[5] = 3;
    g.options[6] = g.options[7] = static_cast<uint8_t>(c.stride);
    EXPECT(g.PreparesWith(8, static_cast<uint8_t>(c.dilation)), "%s", g.error.c_str());
    EXPECT(g.PreparesWith(9, static_cast<uint8_t>(c.dilation)) && g.Invoke(), "%s", g.error.c_str());
    EXPECT(HasShape(g.tensors[kY], {1, c.want, c.want, 6}), "%d %d %d", c.padding, c.stride, c.dilation);
  }
}

TEST(OptionsAreChecked) {
  struct {
    size_t at;
    uint8_t value;
    const char* says;
  } const cases[] = {{0, 3, "options version 1 or 2, got 3; install"}, {1, 4, "activation from 0 to 3, got 4"},
                     {2, 2, "padding 0 (same) or 1 (valid), got 2"}, {3, 2, "unknown arithmetic 2; install"},
                     {10, 1, "unknown flags"}, {11, 1, "unknown flags"},
                     {4, 0, "1 or more, got 0x3"}, {7, 0, "1x0"}, {9, 0, "1x0"},
                     {5, 4, "expected 18 / (2 x 4) channels"}};
  for (const auto& c : cases) {
    Graph g;
    EXPECT(!g.PreparesWith(c.at, c.value) && g.Says(c.says), "%s", g.error.c_str());
  }
  Graph short_one;
  short_one.options.resize(15);
  short_one.InitSealed();
  EXPECT(!short_one.Prepare() && short_one.Says("expected 16 bytes of options, got 15"), "%s", short_one.error.c_str());
  Graph corrupt;
  corrupt.options[13] ^= 1;
  corrupt.Init();
  EXPECT(!corrupt.Prepare() && corrupt.Says("the options' checksum"), "%s", corrupt.error.c_str());
}

// Version 2: int8 with a scale of these bits.
Bytes StaticOptions(uint32_t scale, uint8_t flags = 0) {
  Bytes options = {2, flags, 2, 3, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0};
  Put32(scale, options.data() + 8);
  return options;
}

TEST(StaticOptionsAreChecked) {
  for (uint32_t scale : {0u, 0x80000000u, 0x7F800000u, 0x7FC00000u, 0xBF800000u}) {
    Graph g;
    g.options = StaticOptions(scale);
    g.InitSealed();
    EXPECT(!g.Prepare() && g.Says("expected a scale above 0"), "%s", g.error.c_str());
  }
  Graph flags, valid, corrupt;
  flags.options = StaticOptions(0x3F800000, 8);
  flags.InitSealed();
  EXPECT(!flags.Prepare() && flags.Says("unknown flags 8; install"), "%s", flags.error.c_str());
  valid.options = StaticOptions(0x3F800000, 1 | 4);  // ReLU, "valid"
  valid.InitSealed();
  EXPECT(valid.Prepare() && valid.Invoke(), "%s", valid.error.c_str());
  EXPECT(HasShape(valid.tensors[kY], {1, 3, 3, 6}), "shape");
  for (size_t i = 0; i < 54; ++i) EXPECT(valid.y[i] >= 0.0f, "%g", valid.y[i]);
  corrupt.options = StaticOptions(0x3F800000);
  corrupt.InitSealed();
  corrupt.options[9] ^= 1;
  corrupt.Init();
  EXPECT(!corrupt.Prepare() && corrupt.Says("the options' checksum"), "%s", corrupt.error.c_str());
}

// Newer files may have options of any size: it is the library that is old, and not the file that is wrong.
TEST(NewerVersionsAskForANewerLibrary) {
  for (size_t size : {1u, 16u, 20u}) {
    Graph g;
    g.options = Bytes(size);
    g.options[0] = 3;
    g.Init();
    EXPECT(!g.Prepare() && g.Says("expected options version 1 or 2, got 3; install a keras_prune that reads it"), "%s",
           g.error.c_str());
  }
}

int Rounded(float value, float step) { return static_cast<int>(std::lround(value / step)); }

// The patch is a row: its largest value makes the step, unless the options say one.
TEST(Int8ActivationsAreQuantized) {
  for (bool is_static : {false, true}) {
    Graph g;
    if (is_static) {
      g.options = StaticOptions(0x3C800000);  // 1 / 64
      g.InitSealed();
    }
    EXPECT(is_static ? g.Prepare() : g.PreparesWith(3, 1), "%s", g.error.c_str());
    EXPECT(g.Invoke(), "%s", g.error.c_str());
    float most = 0.0f;
    for (float v : g.layer.codebook) most = std::fmax(most, std::fabs(v));
    for (int pixel = 0; pixel < 20; ++pixel) {
      float patch[18] = {}, largest = 0.0f;
      for (int i = 0; i < 18; ++i) {
        const int y = pixel / 5 + i / 9, x = pixel % 5 + i / 3 % 3 - 1;
        if (y < 4 && x >= 0 && x < 5) patch[i] = g.x[(y * 5 + x) * 3 + i % 3];
        largest = std::fmax(largest, std::fabs(patch[i]));
      }
      const float step = is_static ? 0.015625f : largest / 127.0f, w_step = most / 127.0f;
      int sum = 0;
      for (int i = 0; i < 18; ++i) {
        const int value = std::min(127, std::max(-127, Rounded(patch[i], step)));
        sum += value * Rounded(g.layer.codebook[g.layer.codes[18 + i]], w_step);
      }
      const float want = static_cast<float>(sum) * (step * w_step) + g.bias[1], got = g.y[pixel * 6 + 1];
      EXPECT(got == want, "static %d, pixel %d: %g %g", is_static, pixel, got, want);
    }
  }
}

TEST(TensorsAreChecked) {
  Graph g;
  g.tensors[kX].type = kTfLiteInt8;
  EXPECT(!g.Prepare() && g.Says("input t: expected float32"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {20, 3}, g.x.data(), 240);
  EXPECT(!g.Prepare() && g.Says("expected rank 4"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 0, 3}, g.x.data(), 0);
  EXPECT(!g.Prepare() && g.Says("dimension 2 is 0"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 3, 5}, g.x.data(), 240);
  EXPECT(!g.Prepare() && g.Says("channels as the packed weights have columns, got 5"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {INT32_MAX, INT32_MAX, INT32_MAX, 3}, g.x.data(), 240);
  EXPECT(!g.Prepare() && g.Says("input t: too large"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 1, 5, 3}, g.x.data(), 60);
  EXPECT(!g.PreparesWith(2, 1) && g.Says("an image that the kernel fits into, got 1 x 5"), "%s", g.error.c_str());
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 5, 3}, g.x.data(), 240);
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
}

// The claims of a header are compared with the tensors before a layout is made.
TEST(ClaimedSizesAreChecked) {
  Bytes packed = PackTensor({1, 1, {0}, {0.0f}});
  packed[5] = 1;  // gaps, none of them: 50 bytes claim any size
  packed[24] = 1;
  Put32(0, packed.data() + 20);
  Put32(INT32_MAX, packed.data() + 8);
  packed.resize(36);
  packed.insert(packed.end(), {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});  // two streams without symbols
  Put32(static_cast<uint32_t>(packed.size()), packed.data() + 28);
  Seal(&packed);
  for (bool with_bias : {true, false}) {
    Graph g;
    g.options[4] = g.options[5] = 1;
    g.Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 2, 2, 1}, g.x.data(), 16);
    g.node.inputs->size = with_bias ? 3 : 2;
    g.InitSealed();
    const char* want = with_bias ? "bias t: expected shape [2147483647]" : "expected a last dimension of 2147483647";
    EXPECT(!g.Prepare() && g.Says(want), "%s", g.error.c_str());
    std::free(g.tensors[kY].dims);
    g.tensors[kY].dims = nullptr;
    if (!with_bias) EXPECT(!g.Prepare() && g.Says("a last dimension in the file, got none"), "%s", g.error.c_str());
  }
}

// 64 GB for patches of a file of a few bytes, which 32 bits say as 0. In 64 bits so many addresses may be had.
TEST(WorkspaceThatNoMemoryHoldsIsRefused) {
  if (sizeof(size_t) > sizeof(uint32_t)) return;
  constexpr int kChannels = 65536;
  Bytes packed = PackTensor({1, 1, {1}, {0.0f, 1.0f}});
  packed[5] = 1;  // gaps: one symbol below the escape
  packed[24] = 1;
  Put32(128 * 128 * kChannels, packed.data() + 12);
  const Bytes gap = EncodeFixed({0}, 8);
  packed.insert(packed.begin() + 36 + 4, gap.begin(), gap.end());  // behind the codebook
  Put32(static_cast<uint32_t>(packed.size()), packed.data() + 28);
  Seal(&packed);
  for (uint8_t arithmetic : {0, 1}) {
    Graph g;
    g.options[3] = arithmetic;
    g.options[4] = g.options[5] = 128;
    g.x.resize(kChannels);
    g.Set(kPacked, kTfLiteUInt8, kTfLiteMmapRo, {static_cast<int>(packed.size())}, packed.data(), packed.size());
    g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 1, 1, kChannels}, g.x.data(), g.x.size() * 4);
    g.Set(kBias, kTfLiteFloat32, kTfLiteMmapRo, {1}, g.bias.data(), 4);
    g.Set(kY, kTfLiteFloat32, kTfLiteArenaRw, {1, 1, 1, 1}, g.y.data(), 4);
    g.InitSealed();
    EXPECT(!g.Prepare() && g.Says("out of memory for the activations"), "%s", g.error.c_str());
  }
}

TEST(ThreadsDoNotChangeResults) {
  std::vector<float> results[2];
  for (int threads : {1, 2}) {
    Graph g;
    std::vector<float> x = RandomVector(4 * 2000 * 3), y(4 * 2000 * 6);
    g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {1, 4, 2000, 3}, x.data(), x.size() * 4);
    g.tensors[kY].data = y.data();
    g.context.recommended_num_threads = threads;
    EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
    results[threads - 1] = y;
  }
  EXPECT(results[0] == results[1], "the same bits");
}

TEST(AnEmptyBatchNeedsNoMemory) {
  Graph g;
  g.Set(kX, kTfLiteFloat32, kTfLiteArenaRw, {0, 4, 5, 3}, nullptr, 0);
  g.tensors[kY].data = nullptr;
  EXPECT(g.Prepare() && g.Invoke(), "%s", g.error.c_str());
  EXPECT(HasShape(g.tensors[kY], {0, 4, 5, 6}), "shape");
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
