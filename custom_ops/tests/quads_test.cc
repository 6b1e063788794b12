// The compute layouts of the vector kernels on int8 rows, each shape whatever the size of the layer: kernels take the
// smaller forms for large ones only.
#include "../kernels/quads.h"

#include "int8_forward.h"

namespace keras_prune_test {
namespace {

struct Lanes {
  const FcKernel* kernel;
  QuadsShape shape;  // of the smallest window
};

const std::vector<Lanes> kLanes = {
#if defined(__x86_64__)
    {&kFcS8Avx2, {8, true, 32, 0, 0}},
    {&kFcS8Avx512Vbmi, {16, false, 64, 0, 0}},
#elif defined(__aarch64__)
    {&kFcS8Neon, {8, false, 64, 0, 0}},
    {&kFcS8NeonDot, {8, false, 64, 0, 0}},
#endif
};

// Forward and backward for each window and form that this CPU's kernels take.
void CheckForms(const Layer& layer, uint32_t batch) {
  const std::vector<uint8_t> packed = Pack(layer);
  PackedView view;
  EXPECT(ParsePacked(packed.data(), packed.size(), &view) == Status::kOk, "pack");
  QuadsBuilder builder(view);
  EXPECT(builder.Scan() == Status::kOk, "scan");
  for (const Lanes& lanes : kLanes) {
    if (!IsaSupported(lanes.kernel->isa)) continue;
    std::vector<float> dx;
    for (QuadsShape shape = lanes.shape; shape.window <= builder.LargestWindow(); shape.window *= 2) {
      for (uint32_t form = 0; form < builder.NumForms(); ++form) {
        const QuadsShape some = builder.FormOf(shape, form);
        FcLayout* layout = nullptr;
        EXPECT(builder.Build(some, lanes.kernel, &layout) == Status::kOk, "%s", lanes.kernel->name);
        EXPECT(FcLayoutBytes(layout) == builder.NumBytes(some, builder.CountPairs(some, 1)), "%s", lanes.kernel->name);
        CheckForward(layer, layout, RandomVector(batch * layer.cols, 7), {batch});
        std::vector<float> got(layer.cols);
        FcBackward(layout, RandomVector(layer.rows, 9).data(), 1, got.data());
        for (uint32_t i = 0; i < got.size() && !dx.empty(); ++i) {
          const bool close = std::fabs(got[i] - dx[i]) < 1e-5f;  // added up in another order
          EXPECT(close, "%s window %u form %u: %g, not %g", lanes.kernel->name, shape.window, form, got[i], dx[i]);
        }
        dx = got;
        FreeFcLayout(layout);
      }
    }
  }
}

TEST(AllTailsOfRowsAndColumns) {
  for (uint32_t rows : {1u, 8u, 9u, 17u}) {
    for (uint32_t cols : {1u, 31u, 64u, 65u, 127u, 128u, 129u, 300u}) {
      for (uint32_t size : {16u, 32u, 64u}) CheckForms(RandomLayer(rows, cols, 0.3, size, rows * 1000 + cols), 5);
    }
  }
}

TEST(CodebookSizes) {
  for (uint32_t size : {2u, 4u, 5u, 9u, 16u, 17u, 31u, 32u, 33u, 48u, 49u, 64u, 65u, 256u}) {
    CheckForms(RandomLayer(40, 700, 0.4, size, size), 5);
  }
}

TEST(Densities) {
  for (double density : {0.0, 0.002, 0.03, 0.2, 1.0}) {
    for (uint32_t size : {16u, 32u, 64u}) CheckForms(RandomLayer(70, 1003, density, size, 11), 1);
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
