// What it would cost to compute from the packed bytes where they are in the file, without a layout: one layer, batch 1,
// one thread. Usage: in_place_bench <file of packed bytes of version 2, with a codebook>
#include <time.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../tensor_reader.h"

namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a bench of that namespace

void Die(const char* what) {
  std::fprintf(stderr, "in_place_bench: %s\n", what);
  std::exit(1);
}

std::vector<uint8_t> ReadFile(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) Die("cannot open the file");
  std::vector<uint8_t> bytes;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) bytes.push_back(static_cast<uint8_t>(c));
  std::fclose(file);
  return bytes;
}

// The least of nine runs in microseconds of this thread's time.
template <typename Run>
double Time(Run&& run) {
  double least = HUGE_VAL;
  for (int i = 0; i < 9; ++i) {
    timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    run();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    least = std::fmin(least, 1e6 * static_cast<double>(to.tv_sec - from.tv_sec) +
                                 1e-3 * static_cast<double>(to.tv_nsec - from.tv_nsec));
  }
  return least;
}

// y = W x, each weight used as soon as it is decoded; units are single weights.
Status Multiply(const TensorView& w, const float* x, float* y) {
  uint32_t positions[kChunk], count, some;
  PositionReader position_reader(w);
  ValueReader<float> value_reader(w);
  uint64_t row = 0, begin = 0;
  y[0] = 0.0f;
  for (Status status = position_reader.Next(positions, &count); count != 0 || status != Status::kOk;
       status = position_reader.Next(positions, &count)) {
    const float* values;
    for (uint32_t at = 0; at < count && status == Status::kOk; at += some) {
      status = value_reader.Take(count - at, &values, &some);
      for (uint32_t i = 0; i < some && status == Status::kOk; ++i) {
        for (; positions[at + i] >= begin + w.cols; begin += w.cols) y[++row] = 0.0f;
        y[row] += values[i] * x[positions[at + i] - begin];
      }
    }
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

void PrintKernels(const PackedView& entries, const float* x, float* y) {
  for (const Isa isa : {Isa::kReference, Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    FcLayout* layout;
    if (!IsaSupported(isa) || MakeFcLayout(entries, {isa}, &layout) != Status::kOk) continue;
    const double time = Time([&] { FcForward(layout, {x, 1, nullptr, -HUGE_VALF, HUGE_VALF, y}); });
    std::printf("%-26s %9.1f us, layout of %zu bytes\n", FcKernelName(layout), time, FcLayoutBytes(layout));
    FreeFcLayout(layout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) Die("expected a file");
  const std::vector<uint8_t> bytes = ReadFile(argv[1]);
  TensorView view;
  if (ParseTensor(bytes.data(), bytes.size(), &view) != Status::kOk || view.values != Values::kCodebook ||
      view.block_rows * view.block_cols != 1) {
    Die("expected packed bytes of version 2 with a codebook and single weights");
  }
  const std::vector<float> x(view.cols, 0.5f);
  std::vector<float> y(view.rows);
  std::vector<uint8_t> memory(EntriesBytes(view) + 1);
  PackedView entries;
  bool ok = true;
  const auto multiply = [&] { ok = ok && Multiply(view, x.data(), y.data()) == Status::kOk; };
  const auto decode = [&] { ok = ok && UnpackEntries(view, memory.data(), &entries) == Status::kOk; };
  const double from_bytes = Time(multiply), decoded = Time(decode);
  if (!ok) Die("the packed bytes are damaged");
  std::printf("%ux%u, %u weights, %zu bytes\n", view.rows, view.cols, view.num_units, bytes.size());
  std::printf("%-26s %9.1f us, no layout\n%-26s %9.1f us\n", "from the packed bytes", from_bytes, "decoding alone",
              decoded);
  PrintKernels(entries, x.data(), y.data());
}
