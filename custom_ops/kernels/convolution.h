// Convolutions on packed weights: a fully connected layer on each output pixel's patch, of kernel_h * kernel_w * channels
// values of x. Patches are made a few at a time in the form that the layer's kernel wants; all of them (im2col) are
// never in memory. Of int8 activations with one scale, x is in the workspace as int8. Computing allocates nothing.
#ifndef KERAS_PRUNE_KERNELS_CONVOLUTION_H_
#define KERAS_PRUNE_KERNELS_CONVOLUTION_H_

#include "fully_connected.h"

namespace keras_prune {

// Images are row-major (batch, height, width, channels); a patch is (kernel_h, kernel_w, channels), so that the weights'
// matrix has kernel_h * kernel_w * channels columns. What lies outside an image is zero.
struct ConvShape {
  size_t batch, in_h, in_w, channels;
  size_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  size_t pad_top, pad_left;  // zeros before the first row and the first column
  size_t out_h, out_w;
};

// Batch rows of the fully connected layer: what a layout is best made for. All sizes are in the caller's tensors.
inline size_t ConvPixels(const ConvShape& shape) { return shape.batch * shape.out_h * shape.out_w; }

// What a call with this x_scale (FcCall) needs; nothing without images. A patch may be much larger than the image: 64
// bits also where size_t has 32, and what has no room in memory is for the caller to refuse.
uint64_t ConvWorkspaceBytes(const FcLayout* layout, const ConvShape& shape, int num_threads, float x_scale);

// call.x: (batch, in_h, in_w, channels), call.y: (batch, out_h, out_w, rows); call.batch is ConvPixels(shape).
void ConvForward(const FcLayout* layout, const ConvShape& shape, const FcCall& call);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_CONVOLUTION_H_
