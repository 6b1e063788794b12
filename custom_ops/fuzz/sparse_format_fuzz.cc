// Version 1: any bytes are read or refused; what is read makes layouts, and those compute.
#include <vector>

#include "../kernels/fully_connected.h"
#include "fuzzing.h"

using namespace keras_prune;       // NOLINT(build/namespaces): a test of that namespace
using namespace keras_prune_fuzz;  // NOLINT(build/namespaces)

namespace {

void Compute(const PackedView& view, Isa isa) {
  FcLayout* layout;
  const Status status = MakeFcLayout(view, {isa}, &layout);
  FUZZ_EXPECT(status == Status::kOk || status == Status::kOutOfMemory);
  if (layout == nullptr) return;
  constexpr size_t kBatch = 2;
  if (view.rows <= 4096 && view.cols <= 4096) {
    Exact x(kBatch * view.cols * 4), y(kBatch * view.rows * 4);
    std::memset(x.data(), 0, x.size());
    FcForward(layout, {reinterpret_cast<const float*>(x.data()), kBatch, nullptr, -1.0f, 1.0f,
                       reinterpret_cast<float*>(y.data())});
    FcBackward(layout, reinterpret_cast<const float*>(y.data()), kBatch, reinterpret_cast<float*>(x.data()));
  }
  FreeFcLayout(layout);
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return MutatePacked(1, data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Exact packed(data, size);
  PackedView view;
  if (ParsePacked(packed.data(), size, &view) != Status::kOk) return 0;
  uint32_t kept = 0;
  VisitKept(view, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t entry) {
    FUZZ_EXPECT(row < view.rows && col < view.cols && code < view.codebook_size && entry < view.num_entries);
    ++kept;
  });
  FUZZ_EXPECT(kept == view.num_kept);
  for (Isa isa : {Isa::kReference, Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    // Memory follows the buffer's length, but for a row's begin in some layouts.
    if (IsaSupported(isa) && view.rows <= kMostWeights) Compute(view, isa);
  }
  return 0;
}
