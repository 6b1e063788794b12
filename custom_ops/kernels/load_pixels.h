// A tile of vectors that lie anywhere; internal to custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_LOAD_PIXELS_H_
#define KERAS_PRUNE_KERNELS_LOAD_PIXELS_H_

#include <cstddef>

namespace keras_prune {

// to[channel * stride + i] = from[i][channel].
void Transpose(const float* const* from, size_t width, size_t channels, size_t stride, float* to);

// tile[channel * width + i] = pixels[i][channel]: the values of a channel stand together.
void LoadPixels(const float* const* pixels, size_t width, size_t channels, float* tile);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_LOAD_PIXELS_H_
