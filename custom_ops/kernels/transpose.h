// The values of a channel of many pixels side by side: tiles of x, and results on their way back; internal to
// custom_ops/kernels.
#ifndef KERAS_PRUNE_KERNELS_TRANSPOSE_H_
#define KERAS_PRUNE_KERNELS_TRANSPOSE_H_

#include <cstddef>
#include <cstdint>

namespace keras_prune {

// to[channel * stride + i] = from[i][channel] for i < width; vectors `from` may lie anywhere.
void Transpose(const float* const* from, size_t width, size_t channels, size_t stride, float* to);
void Transpose(const int8_t* const* from, size_t width, size_t channels, size_t stride, float* to);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_TRANSPOSE_H_
