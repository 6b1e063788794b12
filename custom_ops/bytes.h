// Little-endian numbers and bit streams at any address.
#ifndef KERAS_PRUNE_BYTES_H_
#define KERAS_PRUNE_BYTES_H_

#include <cstddef>
#include <cstdint>

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

inline uint32_t Load16(const uint8_t* p) { return uint32_t{p[0]} | uint32_t{p[1]} << 8; }

inline uint32_t Load32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

// Eight values of `bits` bits that begin on a whole byte; `left` is how many values the stream still has. No byte after
// the stream's last is read.
inline uint64_t EightValues(const uint8_t* p, uint64_t left, uint32_t bits) {
  if ((left * bits + 7) / 8 >= 8) return uint64_t{Load32(p)} | uint64_t{Load32(p + 4)} << 32;
  uint64_t word = 0;
  for (uint64_t k = 0; k < (left * bits + 7) / 8; ++k) word |= uint64_t{p[k]} << (8 * k);
  return word;
}

inline uint64_t StreamBytes(uint64_t count, uint32_t bits) { return (count * bits + 7) / 8; }

// The unused high bits of a stream's last byte are zero.
inline bool PaddingIsZero(const uint8_t* stream, uint64_t count, uint32_t bits) {
  const uint32_t used = static_cast<uint32_t>(count * bits % 8);
  return used == 0 || (stream[StreamBytes(count, bits) - 1] >> used) == 0;
}

// Every value is finite; `count` little-endian float32.
inline bool AllFinite(const uint8_t* floats, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    if ((Load32(floats + 4 * i) & 0x7F800000u) == 0x7F800000u) return false;
  }
  return true;
}

inline float FloatFromBits(uint32_t bits) {
  static_assert(sizeof(float) == 4, "expected IEEE 754 float32");
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_BYTES_H_
