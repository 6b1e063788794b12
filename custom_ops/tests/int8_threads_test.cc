// Int8 activations on several threads: the bits of one.
#include "int8_forward.h"

namespace keras_prune_test {
namespace {

// Whole tiles, and parts of them where there are fewer tiles than threads.
TEST(SameBitsForAnyNumberOfThreads) {
  Workers* const pools[] = {MakeWorkers(2), MakeWorkers(3)};
  for (uint32_t rows : {40u, 700u}) {
    const Layer layer = RandomLayer(rows, 130, 0.1, rows == 40 ? 40 : 16, rows);
    const Layouts layouts(layer);
    for (const FcLayout* layout : layouts.all()) {
      for (size_t batch : {1, 16, 33, 63, 64, 65, 129}) {
        const std::vector<float> x = RandomVector(batch * layer.cols, 7);
        for (Workers* workers : pools) CheckForward(layer, layout, x, {batch, true, -1.0f, 2.0f, 0.0f, workers});
      }
    }
  }
  for (Workers* workers : pools) FreeWorkers(workers);
}

// Of tiles on which every row of x is not finite, or zero.
TEST(RowsThatAreNotFiniteAreToldByEveryThread) {
  Workers* workers = MakeWorkers(3);
  const Layer layer = RandomLayer(300, 64, 0.2, 16, 5);
  const Layouts layouts(layer);
  for (const FcLayout* layout : layouts.all()) {
    for (float value : {kInf, kNan, 0.0f}) {
      const std::vector<float> x(100 * layer.cols, value);
      CheckForward(layer, layout, x, {100, true, 0.0f, 6.0f, 0.0f, workers});
    }
  }
  FreeWorkers(workers);
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
