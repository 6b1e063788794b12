// Makes an input's graph fit its packed bytes, and its options' checksums right, so that the fuzzer comes past them.
#ifndef KERAS_PRUNE_FUZZ_GRAPH_REPAIR_H_
#define KERAS_PRUNE_FUZZ_GRAPH_REPAIR_H_

#include <cstring>

#include "fuzzing.h"
#include "graph_head.h"

namespace keras_prune_fuzz {

using keras_prune::Crc32;
using keras_prune::kHeaderBytes;

// The shapes that fit the packed bytes.
inline void FitShapes(Head* head, const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) {
  if (a_size >= kHeaderBytes) {
    head->ranks[1] = 2;
    std::memcpy(head->unpacked, a + 8, 8);
  }
  if (b_size >= kHeaderBytes) {
    head->ranks[0] = head->ranks[3] = 2;
    head->ranks[2] = 1;
    head->x[0] = head->y[0] = 2;
    std::memcpy(&head->x[1], b + 12, 4);
    std::memcpy(&head->y[1], b + 8, 4);
    std::memcpy(&head->bias, b + 8, 4);
  }
}

// Versions are told by their parity; true: version 2, whose activations are int8 with one step of x.
inline bool FitVersion(uint8_t* version) {
  *version = *version % 2 == 0 ? 2 : 1;
  return *version == 2;
}

// A positive finite float32: most bits are the fuzzer's.
inline void FitScale(uint8_t* scale) {
  scale[0] |= 1;
  scale[3] &= 0x3F;
}

// Of a convolution with a kernel of up to 3 x 3, where its area divides the columns.
inline void FitImages(Head* head, const uint8_t* packed) {
  const bool is_static = FitVersion(head->unpack_options);
  uint8_t* kernel = head->unpack_options + (is_static ? 2 : 4);
  uint32_t cols;
  std::memcpy(&cols, packed + 12, 4);
  for (int i : {0, 1}) kernel[i] = static_cast<uint8_t>(kernel[i] % 3 + 1);
  if (cols % (kernel[0] * kernel[1]) != 0) kernel[0] = kernel[1] = 1;
  head->ranks[0] = head->ranks[3] = 4;
  head->unpacked[0] = 1;
  head->unpacked[1] = head->x[0] = 3;
  head->x[1] = static_cast<int32_t>(cols / (kernel[0] * kernel[1]));
  if (!is_static) head->fc_options[2] = head->fc_options[3] = 0;
}

inline void Seal(uint8_t* options) { Put32(Crc32(0, options, 4), options + 4); }

// Of 16 bytes: all but the checksum.
inline void SealConv(Head* head) {
  head->options_size = 16;
  if (FitVersion(head->unpack_options)) FitScale(head->fc_options);
  Put32(Crc32(Crc32(0, head->unpack_options, 8), head->fc_options, 4), head->fc_options + 4);
}

// Of version 1, of version 2, and the 12 bytes of version 1.
inline void SealFc(Head* head) {
  uint8_t *o = head->fc_options, *rest = head->unpack_options;
  head->options_size = 8;
  if (FitVersion(o)) {
    FitScale(o + 4);
    const uint32_t crc = Crc32(Crc32(0, o, 2), o + 4, 4);
    o[2] = static_cast<uint8_t>(crc);
    o[3] = static_cast<uint8_t>(crc >> 8);
  } else if (o[3] != kInt8Static) {
    Seal(o);
  } else {
    head->options_size = 12;  // an operator that unpacks has 8 at most
    if ((head->flags & kHasUnpack) == 0) FitScale(rest);
    Put32(Crc32(Crc32(0, o, 4), rest, 4), o + 4);
  }
}

inline void SealOptions(Head* head) {
  if ((head->flags & kConv) != 0) return SealConv(head);
  if ((head->flags & kHasUnpack) != 0) {
    head->unpack_options[0] = 1;
    Seal(head->unpack_options);
  }
  SealFc(head);
}

}  // namespace keras_prune_fuzz

#endif  // KERAS_PRUNE_FUZZ_GRAPH_REPAIR_H_
