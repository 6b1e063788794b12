// What an input of the delegate's fuzzer begins with, 64 bytes: a graph of one KerasPruneUnpack and one
// KerasPruneFullyConnected or KerasPruneConv2D. make_seeds.py writes such heads.
#ifndef KERAS_PRUNE_FUZZ_GRAPH_HEAD_H_
#define KERAS_PRUNE_FUZZ_GRAPH_HEAD_H_

#include <cstdint>

namespace keras_prune_fuzz {

constexpr uint8_t kInt8Static = 2;  // arithmetic of a layer's options of version 1, which are 12 bytes then

enum Index { kX, kPackedA, kPackedB, kUnpacked, kBias, kY, kNumTensors };
enum Flag : uint8_t {
  kHasUnpack = 1, kHasFc = 2, kOpenY = 4, kOpenUnpacked = 8, kVariable = 16, kScalar = 32, kConv = 64, kNan = 128
};

struct Head {
  uint8_t flags;
  uint8_t unpack_sizes, fc_sizes;  // inputs, and outputs in the high half
  uint8_t type_of, allocation_of;  // a tensor, and in the high half what it gets instead of the usual
  uint8_t options_size;
  uint16_t packed_a;  // bytes of the first packed tensor
  int8_t unpack_inputs[2], unpack_outputs[2], fc_inputs[3], fc_output;
  uint8_t unpack_options[8], fc_options[8];  // a convolution has all 16; a layer's 12 end with the first 4
  uint8_t ranks[4];  // of x, unpacked, bias, y
  int32_t x[2], unpacked[2], bias, y[2];  // of a convolution's x, `unpacked` are the first two
};
static_assert(sizeof(Head) == 64, "as make_seeds.py writes it");

}  // namespace keras_prune_fuzz

#endif  // KERAS_PRUNE_FUZZ_GRAPH_HEAD_H_
