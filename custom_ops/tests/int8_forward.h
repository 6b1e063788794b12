// Layers with int8 activations through every kernel that this CPU runs, compared with dense loops over the codes.
#ifndef KERAS_PRUNE_TESTS_INT8_FORWARD_H_
#define KERAS_PRUNE_TESTS_INT8_FORWARD_H_

#include <cmath>
#include <limits>
#include <vector>

#include "../kernels/inputs.h"
#include "../kernels/kernel.h"
#include "supported.h"

namespace keras_prune_test {
namespace {

// Half away from zero, as float32 rounds x * (1 / scale) + 0.5.
inline int Quantized(float x, float scale) {
  float value = x * (1.0f / scale);
  value += value < 0.0f ? -0.5f : 0.5f;
  return static_cast<int>(std::fmax(-127.0f, std::fmin(127.0f, value)));
}

// Its scale, or NaN where a value is not finite.
inline float StepOf(const float* x, size_t size, float scale) {
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
  Workers* workers = nullptr;
};

// Dense loops over the codes: nothing of the kernels is in them.
inline std::vector<float> Want(const Layer& layer, const std::vector<float>& x, const std::vector<float>& bias,
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

inline bool Same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; }

inline void CheckForward(const Layer& layer, const FcLayout* layout, const std::vector<float>& x, const Call& call) {
  const std::vector<float> bias = RandomVector(layer.rows, 3), want = Want(layer, x, bias, call);
  std::vector<float> got(want.size() + kGuards, kGuard);
  const Workspace workspace(layout, call.batch, NumThreads(call.workers));
  FcCall fc = {x.data(), call.batch, call.bias ? bias.data() : nullptr, call.low, call.high, got.data()};
  fc.x_scale = call.x_scale;
  fc.workers = call.workers;
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
    for (Isa isa : SupportedIsas()) {
      if (status == Status::kOk) Add(isa);
    }
  }
  ~Layouts() {
    for (FcLayout* layout : layouts_) FreeFcLayout(layout);
  }
  const std::vector<FcLayout*>& all() const { return layouts_; }

 private:
  // For one batch row and, where these are others, for some and for many.
  void Add(Isa isa) {
    FcOptions before = {isa, Activations::kInt8, 1};
    for (size_t batch : {1, 8, 64}) {
      const FcOptions options = {isa, Activations::kInt8, batch};
      FcLayout* layout = nullptr;
      if (batch != 1 && FcSameLayout(before, options)) continue;
      before = options;
      EXPECT(MakeFcLayout(view_, options, &layout) == Status::kOk, "%s", IsaName(isa));
      if (layout != nullptr) layouts_.push_back(layout);
    }
  }

  std::vector<uint8_t> packed_;
  PackedView view_;
  std::vector<FcLayout*> layouts_;
};

inline void CheckLayer(const Layer& layer, const std::vector<size_t>& batches, int gap_bits = 8) {
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

}  // namespace
}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_INT8_FORWARD_H_
