// The delegate on hostile graphs, with a small fake of the runtime: any options, shapes, types and packed bytes are
// computed or refused.
//
// An input is a head of 64 bytes that describes a graph (graph_head.h), and then the bytes of two packed tensors.
// custom_ops/fuzz/make_seeds.py writes such inputs.
#include <algorithm>
#include <cstring>
#include <random>

#include "fake_runtime.h"
#include "fuzzing.h"
#include "graph_head.h"
#include "graph_repair.h"

using namespace keras_prune_fuzz;  // NOLINT(build/namespaces): what this file is made of

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  if (size < sizeof(Head)) return size;
  std::minstd_rand random(seed + 1);
  Head head;
  std::memcpy(&head, data, sizeof head);
  uint8_t* packed = data + sizeof head;
  const size_t a = std::min<size_t>(size - sizeof head, head.packed_a), b = size - sizeof head - a;
  Repair(0, packed, a, &random);
  Repair(0, packed + a, b, &random);
  const bool conv = (head.flags & kConv) != 0;
  if (random() % 4 != 0) {
    FitShapes(&head, packed, a, packed + a, b);
    if (conv && b >= keras_prune::kHeaderBytes) FitImages(&head, packed + a);
  }
  if (random() % 16 != 0) SealOptions(&head);
  std::memcpy(data, &head, sizeof head);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < sizeof(Head)) return 0;
  Head head;
  std::memcpy(&head, data, sizeof head);
  const uint8_t* packed = data + sizeof head;
  const size_t packed_size = size - sizeof head, a = std::min<size_t>(packed_size, head.packed_a);
  // What the tensors and the bytes agree on is allocated.
  if (ClaimedWeights(packed, a) > kMostWeights && head.ranks[1] % 5 != 0) return 0;
  if (ClaimedWeights(packed + a, packed_size - a) > kMostWeights) return 0;
  Runtime(head, packed, packed_size).Run();
  return 0;
}
