// Layers through every kernel that this CPU runs, compared with reference.h.
#ifndef KERAS_PRUNE_TESTS_FORWARD_H_
#define KERAS_PRUNE_TESTS_FORWARD_H_

#include <cmath>
#include <vector>

#include "../kernels/reference.h"
#include "supported.h"

namespace keras_prune_test {
namespace {

constexpr size_t kBatchClasses[] = {1, 64};  // what layouts are made for: a few batch rows, and many

// Rounding of one sum of `terms` products: the reference adds in double, the kernels in float32.
inline bool Close(float got, float want, double magnitude) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::fabs(double{got} - want) <= 2e-6 * magnitude + 1e-6;
}

struct Call {
  size_t batch = 1;
  bool bias = true;
  float low = -kInf, high = kInf;
};

// The same pools for all tests of a file; null for one thread.
inline Workers* WorkersOf(int num_threads) {
  static Workers* const workers[] = {nullptr, MakeWorkers(2), MakeWorkers(3)};
  return workers[num_threads - 1];
}

// Vectors of exactly the needed size; guards behind the output.
inline std::vector<float> Forward(const FcLayout* layout, const std::vector<float>& x, const float* bias,
                                  const Call& call, int num_threads) {
  std::vector<float> y(call.batch * FcRows(layout) + kGuards, kGuard);
  Workers* workers = WorkersOf(num_threads);
  const Workspace workspace(layout, call.batch, NumThreads(workers));
  FcCall fc = {x.data(), call.batch, bias, call.low, call.high, y.data()};
  fc.workers = workers;
  fc.workspace = workspace.memory();
  FcForward(layout, fc);
  return y;
}

inline void CheckForward(const PackedView& view, const FcLayout* layout, const std::vector<float>& x,
                         const Call& call) {
  const std::vector<float> bias = RandomVector(view.rows, 3);
  const float* b = call.bias ? bias.data() : nullptr;
  std::vector<float> want(call.batch * view.rows);
  ReferenceForward(view, x.data(), call.batch, b, call.low, call.high, want.data());
  const std::vector<float> got = Forward(layout, x, b, call, 1);
  const double magnitude = 4.0 * std::sqrt(view.cols) + 4.0;
  size_t wrong = 0, first = 0;
  for (size_t i = want.size(); i-- > 0;) {
    if (!Close(got[i], want[i], magnitude)) ++wrong, first = i;
  }
  EXPECT(wrong == 0, "forward %s %ux%u batch %zu: %zu wrong, first [%zu] got %g want %g", FcKernelName(layout),
         view.rows, view.cols, call.batch, wrong, first, got[first], want[first]);
  for (size_t i = want.size(); i < got.size(); ++i) {
    EXPECT(got[i] == kGuard, "%s wrote past the output", FcKernelName(layout));
  }
}

// Threads are woken for each call, which takes long on a busy machine.
inline void CheckThreads(const FcLayout* layout, const std::vector<float>& x, size_t batch) {
  const Call call = {batch};
  const std::vector<float> bias = RandomVector(FcRows(layout), 3);
  const std::vector<float> want = Forward(layout, x, bias.data(), call, 1);
  for (int num_threads : {2, 3}) {
    EXPECT(SameBits(want, Forward(layout, x, bias.data(), call, num_threads)),
           "%s %ux%u batch %zu: other bits with %d threads", FcKernelName(layout), FcRows(layout), FcCols(layout),
           batch, num_threads);
  }
}

inline void CheckBackward(const PackedView& view, const FcLayout* layout, size_t batch) {
  const std::vector<float> dy = RandomVector(batch * view.rows, 5);
  std::vector<float> want(batch * view.cols), got(batch * view.cols + kGuards, kGuard);
  ReferenceBackward(view, dy.data(), batch, want.data());
  FcBackward(layout, dy.data(), batch, got.data());
  const double magnitude = 4.0 * std::sqrt(view.rows) + 4.0;
  size_t wrong = 0, first = 0;
  for (size_t i = want.size(); i-- > 0;) {
    if (!Close(got[i], want[i], magnitude)) ++wrong, first = i;
  }
  EXPECT(wrong == 0, "backward %s %ux%u batch %zu: %zu wrong, first [%zu] got %g want %g", FcKernelName(layout),
         view.rows, view.cols, batch, wrong, first, got[first], want[first]);
  for (size_t i = want.size(); i < got.size(); ++i) {
    EXPECT(got[i] == kGuard, "%s wrote past dx", FcKernelName(layout));
  }
}

// Calls check(layout) for each instruction set and each class of batches.
template <typename Check>
inline void ForEachLayout(const PackedView& view, Check&& check) {
  for (Isa isa : SupportedIsas()) {
    for (size_t batch : kBatchClasses) {
      FcLayout* layout = nullptr;
      EXPECT(MakeFcLayout(view, {isa, Activations::kFloat32, batch}, &layout) == Status::kOk, "%s", IsaName(isa));
      if (layout != nullptr) check(static_cast<const FcLayout*>(layout));
      FreeFcLayout(layout);
    }
  }
}

inline void CheckLayer(const Layer& layer, const std::vector<size_t>& batches, int gap_bits = 8, bool threads = false) {
  const std::vector<uint8_t> packed = Pack(layer, gap_bits);
  PackedView view;
  const Status status = ParsePacked(packed.data(), packed.size(), &view);
  EXPECT(status == Status::kOk, "%s", StatusMessage(status));
  if (status != Status::kOk) return;
  ForEachLayout(view, [&](const FcLayout* layout) {
    EXPECT(FcRows(layout) == layer.rows && FcCols(layout) == layer.cols, "%s", FcKernelName(layout));
    for (size_t batch : batches) {
      const std::vector<float> x = RandomVector(batch * layer.cols, 7);
      CheckForward(view, layout, x, {batch, true, -kInf, kInf});
      CheckForward(view, layout, x, {batch, false, 0.0f, 6.0f});
      CheckBackward(view, layout, batch);
      if (threads && batch == batches.back()) CheckThreads(layout, x, batch);
    }
  });
}

}  // namespace
}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_FORWARD_H_
