// Nanoseconds per kept weight, batch 1 and 16, for layers of well-known nets, float32 and int8 activations, and every
// instruction set of this CPU; the layouts' bytes for a weight, and how many times the packed entries' (entries.h).
// Usage: fully_connected_bench [seconds per measurement [part of a layer's name [values in the codebook]]]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../tests/packing.h"
#include "entries.h"

namespace {

using keras_prune::Activations;
using keras_prune::Isa;

constexpr Isa kIsas[] = {Isa::kReference,  Isa::kScalar, Isa::kAvx2,   Isa::kAvx512,
                         Isa::kAvx512Vbmi, Isa::kNeon,   Isa::kNeonDot};

struct Shape {
  const char* name;
  uint32_t rows, cols;
  double density;
  int gap_bits;
};

// Densities as Han et al. 2015 reach them.
constexpr Shape kShapes[] = {{"LeNet-300-100 fc1", 300, 784, 0.08, 5},
                             {"LeNet-300-100 fc2", 100, 300, 0.09, 5},
                             {"LeNet-300-100 fc3", 10, 100, 0.26, 4},
                             {"AlexNet fc6", 4096, 9216, 0.09, 5},
                             {"AlexNet fc7", 4096, 4096, 0.09, 5},
                             {"AlexNet fc8", 1000, 4096, 0.25, 4},
                             {"VGG-16 fc6", 4096, 25088, 0.04, 6},
                             {"VGG-16 fc7", 4096, 4096, 0.04, 6},
                             {"VGG-16 fc8", 1000, 4096, 0.23, 4}};

// This thread's own time, and below its shortest for a call: what other work on the machine disturbs least.
double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

double BestSeconds(const keras_prune::FcLayout* layout, size_t batch, double budget) {
  const std::vector<float> x = keras_prune_test::RandomVector(batch * keras_prune::FcCols(layout) + 16);
  std::vector<float> y(batch * keras_prune::FcRows(layout));
  const auto* aligned = reinterpret_cast<const float*>((reinterpret_cast<uintptr_t>(x.data()) + 63) / 64 * 64);
  std::vector<char> memory(keras_prune::FcWorkspaceBytes(layout, batch, 1) + keras_prune::kWorkspaceAlignment);
  const size_t past = reinterpret_cast<uintptr_t>(memory.data()) % keras_prune::kWorkspaceAlignment;
  keras_prune::FcCall fc = {aligned, batch, nullptr, -1e30f, 1e30f, y.data()};
  fc.workspace = memory.data() + (keras_prune::kWorkspaceAlignment - past);
  const auto call = [&] { keras_prune::FcForward(layout, fc); };
  call();
  double start = Now();
  call();
  const int calls = std::max(1, static_cast<int>(2e-4 / std::max((Now() - start), 1e-9)));
  double best = 1e9;
  int samples = 0;
  for (const double begin = Now(); Now() - begin < budget || samples < 5; ++samples) {
    start = Now();
    for (int i = 0; i < calls; ++i) call();
    best = std::min(best, (Now() - start) / calls);
  }
  return best;
}

void BenchKernel(const keras_prune::PackedView& view, const keras_prune::FcOptions& options, double budget) {
  keras_prune::FcLayout* layout = nullptr;
  const double start = Now();
  if (keras_prune::MakeFcLayout(view, options, &layout) != keras_prune::Status::kOk) std::abort();
  const double make_ms = 1e3 * (Now() - start);
  const double one = BestSeconds(layout, 1, budget), many = BestSeconds(layout, 16, budget);
  const auto bytes = static_cast<double>(keras_prune::FcLayoutBytes(layout));
  std::printf("  %-25s batch 1: %9.2f us %7.4f ns/weight   batch 16: %7.4f ns/weight   layout: %5.2f bytes/weight, "
              "%.2f of the entries, %.1f ms\n",
              keras_prune::FcKernelName(layout), 1e6 * one, 1e9 * one / view.num_kept, 1e9 * many / 16 / view.num_kept,
              bytes / view.num_kept, bytes / static_cast<double>(keras_prune_bench::EntryBytes(view)), make_ms);
  keras_prune::FreeFcLayout(layout);
}

void BenchShape(const Shape& shape, uint32_t codebook_size, double budget) {
  const auto layer = keras_prune_test::RandomLayer(shape.rows, shape.cols, shape.density, codebook_size);
  const auto packed = keras_prune_test::Pack(layer, shape.gap_bits);
  keras_prune::PackedView view;
  double start = Now();
  if (keras_prune::ParsePacked(packed.data(), packed.size(), &view) != keras_prune::Status::kOk) std::abort();
  const double check_ms = 1e3 * (Now() - start);
  std::printf("%s: %u x %u, %.0f %%, %u kept, %zu bytes packed, checked in %.2f ms\n", shape.name, shape.rows,
              shape.cols, 100 * shape.density, view.num_kept, packed.size(), check_ms);
  for (Isa isa : kIsas) {
    if (!keras_prune::IsaSupported(isa)) continue;
    for (Activations activations : {Activations::kFloat32, Activations::kInt8}) {
      BenchKernel(view, {isa, activations, 1}, budget);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double budget = argc > 1 ? std::atof(argv[1]) : 0.3;
  const char* name = argc > 2 ? argv[2] : "";
  const int codebook_size = argc > 3 ? std::atoi(argv[3]) : 16;
  if (codebook_size < 2 || codebook_size > 256) {
    std::fprintf(stderr, "expected 2 to 256 values in the codebook, got %s\n", argv[3]);
    return 2;
  }
  for (const Shape& shape : kShapes) {
    if (std::strstr(shape.name, name) != nullptr) BenchShape(shape, static_cast<uint32_t>(codebook_size), budget);
  }
  return 0;
}
