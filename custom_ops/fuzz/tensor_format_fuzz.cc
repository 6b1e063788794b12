// Version 2: any bytes are decoded or refused; both ways to decode a codebook matrix agree.
#include <vector>

#include "../kernels/fully_connected.h"
#include "../tensor_format.h"
#include "fuzzing.h"

using namespace keras_prune;       // NOLINT(build/namespaces): a test of that namespace
using namespace keras_prune_fuzz;  // NOLINT(build/namespaces)

namespace {

Status Unpack(const TensorView& view, ElementType as, const Exact& out) {
  const Status status = UnpackTensor(view, as, out.data());
  FUZZ_EXPECT(status != Status::kOutOfMemory);
  return status;
}

void CheckEntries(const TensorView& view, Status expected, const Exact& dense) {
  const Exact memory(static_cast<size_t>(EntriesBytes(view)));
  PackedView entries;
  FUZZ_EXPECT((UnpackEntries(view, memory.data(), &entries) == Status::kOk) == (expected == Status::kOk));
  if (expected != Status::kOk) return;
  std::vector<float> got(size_t{view.rows} * view.cols);
  VisitKept(entries, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    FUZZ_EXPECT(row < view.rows && col < view.cols);
    got[size_t{row} * view.cols + col] = CodebookValue(entries, code);
  });
  FUZZ_EXPECT(std::memcmp(got.data(), dense.data(), dense.size()) == 0);
  FcLayout* layout;
  const Status status = MakeFcLayout(entries, {Isa::kScalar}, &layout);
  FUZZ_EXPECT(status == Status::kOk || status == Status::kOutOfMemory);
  FreeFcLayout(layout);
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return MutatePacked(2, data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Exact packed(data, size);
  TensorView view;
  if (ParseTensor(packed.data(), size, &view) != Status::kOk) return 0;
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  FUZZ_EXPECT(weights >> 32 == 0 && view.num_units <= NumUnits(view));
  if (weights > kMostWeights) return 0;
  const Exact dense(static_cast<size_t>(weights) * ElementBytes(view.element));
  const Status status = Unpack(view, view.element, dense);
  if (view.element == ElementType::kFloat16) {
    const Exact floats(static_cast<size_t>(weights) * sizeof(float));
    FUZZ_EXPECT(Unpack(view, ElementType::kFloat32, floats) == status);
  }
  if (view.values == Values::kCodebook) CheckEntries(view, status, dense);
  return 0;
}
