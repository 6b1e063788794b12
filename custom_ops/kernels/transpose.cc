#include "transpose.h"

#include <string.h>

#include <algorithm>

namespace keras_prune {
namespace {

// Vectors of the compiler's own, which every 64-bit processor has; where it does not know them, four floats one by one.
#if defined(__has_builtin) && (defined(__x86_64__) || defined(__aarch64__))
#if __has_builtin(__builtin_shufflevector)
#define KERAS_PRUNE_HAS_VECTORS 1
#endif
#endif

#if defined(KERAS_PRUNE_HAS_VECTORS)
using Vector = float __attribute__((vector_size(16)));

Vector Load(const float* from) {
  Vector v;
  memcpy(&v, from, sizeof v);
  return v;
}

void Store(Vector v, float* to) { memcpy(to, &v, sizeof v); }

// Four channels of four pixels.
void Transpose4x4(const float* const* pixels, size_t width, size_t channel, float* tile) {
  const Vector a = Load(pixels[0] + channel), b = Load(pixels[1] + channel);
  const Vector c = Load(pixels[2] + channel), d = Load(pixels[3] + channel);
  const Vector ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Vector ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  Store(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), tile);
  Store(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), tile + width);
  Store(__builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), tile + 2 * width);
  Store(__builtin_shufflevector(ab2, cd2, 2, 3, 6, 7), tile + 3 * width);
}
#else
void Transpose4x4(const float* const* pixels, size_t width, size_t channel, float* tile) {
  for (size_t k = 0; k < 4; ++k) {
    for (size_t i = 0; i < 4; ++i) tile[k * width + i] = pixels[i][channel + k];
  }
}
#endif

constexpr size_t kLine = 16;  // floats of a cache line

constexpr size_t kWidened = 32;  // channels at once: a fixed number, of which compilers make vectors

void Widen(const int8_t* __restrict from, size_t count, float* __restrict to) {
  if (count == kWidened) {
    for (size_t i = 0; i < kWidened; ++i) to[i] = from[i];
  } else {
    for (size_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

// Channels [first, end) of pixel after pixel.
void TransposeChannels(const float* const* from, size_t width, size_t first, size_t end, size_t stride, float* to) {
  size_t i = 0;
  for (; i + 4 <= width; i += 4) {
    size_t channel = first;
    for (; channel + 4 <= end; channel += 4) Transpose4x4(from + i, stride, channel, to + channel * stride + i);
    for (; channel < end; ++channel) {
      for (size_t k = 0; k < 4; ++k) to[channel * stride + i + k] = from[i + k][channel];
    }
  }
  for (; i < width; ++i) {
    for (size_t channel = first; channel < end; ++channel) to[channel * stride + i] = from[i][channel];
  }
}

}  // namespace

// A cache line of each pixel at a time: where pixels lie a power of two apart, the cache has no place for all of them.
void Transpose(const float* const* from, size_t width, size_t channels, size_t stride, float* to) {
  for (size_t first = 0; first < channels; first += kLine) {
    TransposeChannels(from, width, first, channels - first < kLine ? channels : first + kLine, stride, to);
  }
}

// A few pixels and channels at a time, which stay in the first-level cache as floats.
void Transpose(const int8_t* const* from, size_t width, size_t channels, size_t stride, float* to) {
  constexpr size_t kPixels = 32;
  float floats[kPixels][kWidened];
  const float* rows[kPixels];
  for (size_t i = 0; i < kPixels; ++i) rows[i] = floats[i];
  for (size_t i = 0; i < width; i += kPixels) {
    const size_t pixels = std::min(kPixels, width - i);
    for (size_t first = 0; first < channels; first += kWidened) {
      const size_t count = std::min(kWidened, channels - first);
      for (size_t k = 0; k < pixels; ++k) Widen(from[i + k] + first, count, floats[k]);
      Transpose(rows, pixels, count, stride, to + first * stride + i);
    }
  }
}

}  // namespace keras_prune
