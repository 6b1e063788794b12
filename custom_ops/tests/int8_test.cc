// Int8 activations: every kernel gives the bits of the exact sums, and these are as near to float32 as is proven.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../kernels/kernel.h"
#include "../kernels/inputs.h"
#include "packing.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

constexpr Isa kAllIsas[] = {Isa::kReference,  Isa::kScalar, Isa::kAvx2,   Isa::kAvx512,
                            Isa::kAvx512Vbmi, Isa::kNeon,   Isa::kNeonDot};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = 12345.0f;  // stands after every output: nothing may write there
constexpr size_t kGuards = 32;

// Workspace of exactly the bytes that are asked for, so that the address sanitizer sees every access past them.
class Workspace {
 public:
  Workspace(const FcLayout* layout, size_t batch) {
    const size_t num_bytes = FcWorkspaceBytes(layout, batch, 1);
    if (num_bytes != 0 && posix_memalign(&memory_, kWorkspaceAlignment, num_bytes) != 0) std::abort();
    if (num_bytes != 0) std::memset(memory_, 0x5A, num_bytes);
  }
  ~Workspace() { std::free(memory_); }
  void* memory() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

// Half away from zero, as float32 rounds x * (1 / scale) + 0.5.
int Quantized(float x, float scale) {
  float value = x * (1.0f / scale);
  value += value < 0.0f ? -0.5f : 0.5f;
  return static_cast<int>(std::fmax(-127.0f, std::fmin(127.0f, value)));
}

// Its scale, or NaN where a value is not finite.
float StepOf(const float* x, size_t size, float scale) {
  float largest = 0.0f;
  for (size_t i = 0; i < size; ++i) {
    if (!std::isfinite(x[i])) return kNan;
    largest = std::fmax(largest, std::fabs(x[i]));
  }
  if (largest == 0.0f) return 0.0f;
  return std::fmax(scale != 0.0f ? scale : largest / 127.0f, std::numeric_limits<float>::min());
}

struct Call {
  size_t batch = 1;
  bool bias = true;
  float low = -kInf, high = kInf, x_scale = 0.0f;
};

// Dense loops over the codes: nothing of the kernels is in them.
std::vector<float> Want(const Layer& layer, const std::vector<float>& x, const std::vector<float>& bias,
                        const Call& call) {
  const float w_scale = StepOf(layer.codebook.data(), layer.codebook.size(), 0.0f);
  std::vector<int> weights(layer.codebook.size());
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = w_scale > 0 ? Quantized(layer.codebook[i], w_scale) : 0;
  std::vector<float> want;
  for (size_t b = 0; b < call.batch; ++b) {
    const float* row = x.data() + b * layer.cols;
    const float scale = StepOf(row, layer.cols, call.x_scale);
    std::vector<int> values(layer.cols);
    for (uint32_t c = 0; c < layer.cols; ++c) values[c] = scale > 0 ? Quantized(row[c], scale) : 0;
    for (uint32_t r = 0; r < layer.rows; ++r) {
      int64_t sum = 0;
      const uint8_t* codes = layer.codes.data() + size_t{r} * layer.cols;
      for (uint32_t c = 0; c < layer.cols; ++c) sum += int64_t{weights[codes[c]]} * values[c];
      float v = static_cast<float>(sum) * (scale * w_scale) + (call.bias ? bias[r] : 0.0f);
      v = v < call.low ? call.low : v;
      want.push_back(v > call.high ? call.high : v);
    }
  }
  return want;
}

bool Same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; }

void CheckForward(const Layer& layer, const FcLayout* layout, const std::vector<float>& x, const Call& call) {
  const std::vector<float> bias = RandomVector(layer.rows, 3), want = Want(layer, x, bias, call);
  std::vector<float> got(want.size() + kGuards, kGuard);
  const Workspace workspace(layout, call.batch);
  FcCall fc = {x.data(), call.batch, call.bias ? bias.data() : nullptr, call.low, call.high, got.data()};
  fc.x_scale = call.x_scale;
  fc.workspace = workspace.memory();
  FcForward(layout, fc);
  size_t wrong = 0, first = 0;
  for (size_t i = want.size(); i-- > 0;) {
    if (!Same(got[i], want[i])) ++wrong, first = i;
  }
  EXPECT(wrong == 0, "%s %ux%u batch %zu: %zu wrong, first [%zu] got %.9g want %.9g", FcKernelName(layout), layer.rows,
         layer.cols, call.batch, wrong, first, got[first], want[first]);
  for (size_t i = want.size(); i < got.size(); ++i) EXPECT(got[i] == kGuard, "%s wrote past y", FcKernelName(layout));
}

// The layouts of all instruction sets of this CPU.
class Layouts {
 public:
  explicit Layouts(const Layer& layer, int gap_bits = 8) : packed_(Pack(layer, gap_bits)) {
    const Status status = ParsePacked(packed_.data(), packed_.size(), &view_);
    EXPECT(status == Status::kOk, "%s", StatusMessage(status));
    for (Isa isa : kAllIsas) {
      FcLayout* layout = nullptr;
      if (status != Status::kOk || !IsaSupported(isa)) continue;
      EXPECT(MakeFcLayout(view_, {isa, Activations::kInt8}, &layout) == Status::kOk, "%s", IsaName(isa));
      if (layout != nullptr) layouts_.push_back(layout);
    }
  }
  ~Layouts() {
    for (FcLayout* layout : layouts_) FreeFcLayout(layout);
  }
  const std::vector<FcLayout*>& all() const { return layouts_; }

 private:
  std::vector<uint8_t> packed_;
  PackedView view_;
  std::vector<FcLayout*> layouts_;
};

void CheckLayer(const Layer& layer, const std::vector<size_t>& batches, int gap_bits = 8) {
  const Layouts layouts(layer, gap_bits);
  for (const FcLayout* layout : layouts.all()) {
    for (size_t batch : batches) {
      const std::vector<float> x = RandomVector(batch * layer.cols, 7);
      CheckForward(layer, layout, x, {batch});
      CheckForward(layer, layout, x, {batch, false, 0.0f, 6.0f});
      CheckForward(layer, layout, x, {batch, true, -kInf, kInf, 0.01f});  // beyond 1.27 it saturates
    }
  }
}

const std::vector<size_t> kBatches = {0, 1, 2, 3, 4, 5, 17, 63, 64, 65};

TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 3u, 4u, 7u, 8u, 9u, 15u, 16u, 17u, 33u}) {
    for (uint32_t cols : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 127u, 128u, 129u, 255u, 257u}) {
      CheckLayer(RandomLayer(rows, cols, 0.3, 16, rows * 1000 + cols), {1, 5});
    }
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.7, 1.0}) {
    CheckLayer(RandomLayer(70, 300, density, 16, 11), kBatches);
    CheckLayer(RandomLayer(300, 70, density, 16, 12), {1, 17}, 4);
    CheckLayer(RandomLayer(40, 1003, density, 40, 13), {1, 4});
  }
}

TEST(CodebookSizes) {
  for (uint32_t size : {1u, 2u, 3u, 4u, 8u, 15u, 16u, 17u, 32u, 33u, 64u, 129u, 255u, 256u}) {
    CheckLayer(RandomLayer(40, 200, 0.1, size, size), {1, 4});
    CheckLayer(RandomLayer(64, 700, 0.5, size, size), {1, 5});
  }
}

TEST(EveryGapWidth) {
  for (int gap_bits = 4; gap_bits <= 8; ++gap_bits) CheckLayer(RandomLayer(37, 513, 0.02, 16, 21), {1, 5}, gap_bits);
}

TEST(EmptyAndFullRows) {
  Layer layer = RandomLayer(50, 400, 0.1, 16, 31);
  for (uint32_t row : {0u, 1u, 17u, 30u, 31u, 49u}) {
    for (uint32_t c = 0; c < layer.cols; ++c) layer.codes[row * layer.cols + c] = row == 17 ? 3 : 0;
  }
  CheckLayer(layer, kBatches);
}

// Gaps of more columns than a step can move: there are steps without weights.
TEST(LongWaysBetweenWeights) {
  Layer layer{32, 9000, std::vector<uint8_t>(32 * 9000), {0.0f, -1.5f, 0.3f}};
  for (uint32_t row = 0; row < layer.rows; ++row) {
    for (uint32_t col : {0u, 255u, 256u, 1000u, 1001u, 5000u, 8998u, 8999u}) {
      for (uint32_t k = 0; k < 6; ++k) layer.codes[row * layer.cols + (col + k * row % 7) % layer.cols] = 1 + k % 2;
    }
  }
  CheckLayer(layer, {1, 4, 5});
}

TEST(RowsOfVeryDifferentLength) {
  Layer layer = RandomLayer(64, 1000, 1.0, 16, 41);
  for (uint32_t row = 0; row < layer.rows; ++row) {
    for (uint32_t c = 0; c < layer.cols; ++c) {
      if ((c * 7 + row * 13) % 1000 > row * row / 5) layer.codes[row * layer.cols + c] = 0;
    }
  }
  CheckLayer(layer, {1, 4, 17});
}

// The largest sums: all weights 127 and all x 127; two products in 16 bits, a row in 32 and, with more columns, in 64.
TEST(TheLargestSums) {
  for (float sign : {1.0f, -1.0f}) {
    for (uint32_t cols : {100u, 5000u, 133143u, 133144u, 200000u}) {
      Layer layer{9, cols, std::vector<uint8_t>(size_t{9} * cols, 1), {0.0f, 2.0f * sign}};
      const Layouts layouts(layer);
      for (const FcLayout* layout : layouts.all()) {
        CheckForward(layer, layout, std::vector<float>(cols, -3.0f), {});
        CheckForward(layer, layout, std::vector<float>(cols, 3.0f), {});
      }
    }
  }
}

TEST(MoreColumnsThanSixteenBitsCount) {
  CheckLayer(RandomLayer(3, 70000, 0.01, 16, 51), {1, 5});
  CheckLayer(RandomLayer(33, 70000, 0.003, 16, 52), {1, 5});
}

TEST(ManyRowsMostOfThemEmpty) {
  CheckLayer(RandomLayer(70000, 3, 0.02, 16, 61), {1, 5});
  CheckLayer(Layer{1000, 3, std::vector<uint8_t>(3000), {0.0f, 1.0f}}, {1, 5});
}

TEST(RowsThatAreNotFiniteGiveNan) {
  Layer layer = RandomLayer(45, 333, 0.2, 16, 71);
  std::fill(layer.codes.begin() + 333, layer.codes.begin() + 666, uint8_t{0});
  for (const Layer& some : {layer, Layer{45, 333, std::vector<uint8_t>(45 * 333), {0.0f}}}) {
    const Layouts layouts(some);
    for (const FcLayout* layout : layouts.all()) {
      for (uint32_t at : {0u, 7u, 8u, 331u, 332u}) {
        std::vector<float> x = RandomVector(5 * some.cols, 73);
        x[some.cols + at] = kInf;
        x[3 * some.cols + at] = kNan;
        x[4 * some.cols + at] = -kInf;
        for (float x_scale : {0.0f, 0.01f}) CheckForward(some, layout, x, {5, true, -kInf, kInf, x_scale});
      }
    }
  }
}

TEST(ZerosGiveTheBias) {
  const Layer layer = RandomLayer(45, 333, 0.2, 16, 81);
  const std::vector<float> x(333), bias = RandomVector(45);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    std::vector<float> y(45);
    const Workspace workspace(layout, 1);
    FcCall call = {x.data(), 1, bias.data(), -kInf, kInf, y.data()};
    call.workspace = workspace.memory();
    FcForward(layout, call);
    EXPECT(y == bias, "%s", FcKernelName(layout));
  }
}

TEST(ExtremesOfFloat32) {
  for (float size : {1e-45f, 1e-40f, 1.2e-38f, 1.5e-36f, 1e-20f, 1e20f, 1e36f}) {
    Layer layer = RandomLayer(20, 100, 0.3, 16, 91);
    std::vector<float> x = RandomVector(100, 92);
    for (float& v : x) v *= size;
    Layer tiny = layer;
    for (float& v : tiny.codebook) v *= 1e-40f;
    for (const Layer& some : {layer, tiny}) {
      const Layouts layouts(some);
      for (const FcLayout* layout : layouts.all()) {
        CheckForward(some, layout, x, {});
        CheckForward(some, layout, x, {1, true, -kInf, kInf, 1e-45f});
        CheckForward(some, layout, x, {1, true, -kInf, kInf, 3e38f});
      }
    }
  }
}

// Each factor is off by half a step at most, so that with w = wq sw + e, |e| <= sw / 2, and x likewise,
// |y - y_float| <= sum (|w| sx / 2 + |x| sw / 2 + sx sw / 4); and 4 roundings of the result, and of x / sx.
TEST(TheErrorAgainstFloat32IsAsProven) {
  constexpr double kHalf = 0.5 + 3e-5;  // x * (1 / sx) + 0.5 is up to 127.5 in float32
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Layer layer = RandomLayer(50, 400, 0.1, seed % 2 != 0 ? 16 : 200, seed);
    const std::vector<float> x = RandomVector(layer.cols, seed + 100);
    const double sx = StepOf(x.data(), x.size(), 0.0f), sw = StepOf(layer.codebook.data(), layer.codebook.size(), 0.0f);
    const Layouts layouts(layer);
    for (const FcLayout* layout : layouts.all()) {
      std::vector<float> y(layer.rows);
      const Workspace workspace(layout, 1);
      FcCall call = {x.data(), 1, nullptr, -kInf, kInf, y.data()};
      call.workspace = workspace.memory();
      FcForward(layout, call);
      for (uint32_t r = 0; r < layer.rows; ++r) {
        double sum = 0.0, bound = 0.0;
        for (uint32_t c = 0; c < layer.cols; ++c) {
          const uint8_t code = layer.codes[r * layer.cols + c];
          const double w = layer.codebook[code];
          sum += w * x[c];
          if (code != 0) bound += kHalf * (std::fabs(w) * sx + std::fabs(x[c]) * sw) + kHalf * kHalf * sx * sw;
        }
        bound += 4 * 0x1p-24 * (std::fabs(sum) + bound);
        EXPECT(std::fabs(y[r] - sum) <= bound, "%s row %u: %g, allowed %g", FcKernelName(layout), r, y[r] - sum, bound);
      }
    }
  }
}

TEST(EveryQuantizationOfARowIsTheSame) {
  const Layer layer = RandomLayer(64, 64, 0.5, 16, 95);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    if (layout->kernel->quantize == nullptr) continue;
    for (size_t size : {1u, 7u, 8u, 15u, 16u, 31u, 32u, 33u, 64u, 100u, 1000u}) {
      std::vector<float> x = RandomVector(size, static_cast<uint32_t>(size));
      for (size_t i = 0; i < size; i += 3) x[i] = std::round(x[i] * 40) / 80;  // halves, with a scale of 1 / 40
      for (float scale : {0.0f, 0.025f, 0.001f, 100.0f}) {
        const size_t stride = (size + 63) / 64 * 64;
        std::vector<int8_t> want(stride, 99), got(stride, 98);
        const float wanted = QuantizeRow(x.data(), size, stride, scale, want.data());
        const float step = layout->kernel->quantize(x.data(), size, stride, scale, got.data());
        EXPECT(step == wanted && want == got, "%s size %zu scale %g", FcKernelName(layout), size, scale);
      }
    }
  }
}

TEST(HalvesAreRoundedAwayFromZero) {
  const float x[] = {0.5f, -0.5f, 1.5f, -1.5f, 126.5f, 300.0f, -300.0f, 0.49f, -2.51f};
  int8_t values[64];
  EXPECT(QuantizeRow(x, 9, 64, 1.0f, values) == 1.0f, "a static scale is taken");
  const int8_t want[] = {1, -1, 2, -2, 127, 127, -127, 0, -3, 0};
  EXPECT(std::memcmp(values, want, sizeof want) == 0, "got %d %d %d", values[0], values[4], values[6]);
  EXPECT(QuantizeRow(x, 9, 64, 0.0f, values) == 300.0f / 127.0f && values[5] == 127 && values[6] == -127, "dynamic");
}

// What threads share: each part alone, and portions as `split` cuts them.
TEST(PartsGiveTheSameTogetherAndAlone) {
  const Layer layer = RandomLayer(150, 500, 0.1, 16, 96);
  const std::vector<float> x = RandomVector(5 * 500, 97);
  std::vector<int8_t> values(5 * 512);
  float scales[5];
  for (size_t b = 0; b < 5; ++b) scales[b] = QuantizeRow(&x[b * 500], 500, 512, 0.0f, &values[b * 512]);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    const FcKernel& kernel = *layout->kernel;
    std::vector<float> together(5 * 150, kGuard), alone(5 * 150, kGuard), shared(5 * 150, kGuard);
    RowBlock rows = {values.data(), 5, 512, scales, nullptr, -kInf, kInf, together.data(), 150};
    kernel.forward(layout, rows, 0, layout->num_parts);
    rows.y = alone.data();
    for (uint32_t part = layout->num_parts; part-- > 0;) kernel.forward(layout, rows, part, part + 1);
    EXPECT(together == alone, "%s", kernel.name);
    if (kernel.split == nullptr) continue;
    rows.y = shared.data();
    uint32_t cuts[4] = {0, kernel.split(layout, 1, 3), kernel.split(layout, 2, 3), layout->num_parts};
    for (int share = 0; share < 3; ++share) {
      EXPECT(cuts[share] < cuts[share + 1], "%s share %d", kernel.name, share);
      kernel.forward(layout, rows, cuts[share], cuts[share + 1]);
    }
    EXPECT(together == shared, "%s", kernel.name);
  }
}

// Of what is computed: dx = dy W with the quantized W.
TEST(Gradients) {
  const Layer layer = RandomLayer(45, 333, 0.2, 16, 97);
  const float w_scale = StepOf(layer.codebook.data(), layer.codebook.size(), 0.0f);
  const std::vector<float> dy = RandomVector(3 * 45, 98);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    std::vector<float> dx(3 * 333);
    FcBackward(layout, dy.data(), 3, dx.data());
    double worst = 0.0;
    for (size_t i = 0; i < dx.size(); ++i) {
      double want = 0.0;
      for (uint32_t r = 0; r < 45; ++r) {
        const float w = layer.codebook[layer.codes[r * 333 + i % 333]];
        want += double{w_scale} * Quantized(w, w_scale) * dy[i / 333 * 45 + r];
      }
      worst = std::fmax(worst, std::fabs(dx[i] - want));
    }
    EXPECT(worst < 1e-5, "%s: %g", FcKernelName(layout), worst);  // sums of 9 products of size 1 in float32
  }
}

// 36 bytes that claim as many rows or columns as the format allows: nothing may be spent on the claim.
TEST(LayoutsFollowTheBytesAndNotTheClaimedSizes) {
  for (bool tall : {true, false}) {
    std::vector<uint8_t> packed = Pack(Layer{1, 1, {0}, {0.0f}});
    Put32(INT32_MAX, packed.data() + (tall ? 8 : 12));
    Seal(&packed);
    PackedView view;
    EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "allowed");
    for (Isa isa : kAllIsas) {
      FcLayout* layout = nullptr;
      if (!IsaSupported(isa)) continue;
      EXPECT(MakeFcLayout(view, {isa, Activations::kInt8}, &layout) == Status::kOk, "%s", IsaName(isa));
      EXPECT(layout == nullptr || FcLayoutBytes(layout) < 4096, "%s", IsaName(isa));
      FreeFcLayout(layout);
    }
  }
}

// With few rows most slots of the vector kernels would be fillers: the scalar layout stands in.
TEST(FewRowsTakeTheScalarLayout) {
  struct {
    uint32_t rows, cols;
    double density;
    bool scalar;
  } const cases[] = {{1, 25088, 0.1, true},    {1, 70000, 0.5, true},    {10, 84, 0.3, false},
                     {100, 300, 0.09, false},  {300, 784, 0.08, false},  {500, 9216, 0.09, false},
                     {500, 25088, 0.04, false}, {1000, 4096, 0.25, false}};
  for (const auto& c : cases) {
    const Layer layer = RandomLayer(c.rows, c.cols, c.density, 16, c.rows);
    const Layouts layouts(layer);
    for (const FcLayout* layout : layouts.all()) {
      const bool is_scalar = std::strcmp(FcKernelName(layout), "s8_fc_csr__scalar") == 0;
      const bool is_vector = std::strstr(FcKernelName(layout), "quads") != nullptr;
      CheckForward(layer, layout, RandomVector(layer.cols), {});
      EXPECT(FcSuits(layout, 64), "%s", FcKernelName(layout));
      if (is_vector) EXPECT(!c.scalar, "%s %ux%u", FcKernelName(layout), c.rows, c.cols);
      if (!c.scalar) EXPECT(!is_scalar || layout == layouts.all()[1], "%ux%u", c.rows, c.cols);
    }
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
