// The operator KerasPruneConv2D: what it checks and how it runs. docs/format.md describes inputs and options.
#ifndef KERAS_PRUNE_TFLITE_PACKED_CONV_H_
#define KERAS_PRUNE_TFLITE_PACKED_CONV_H_

#include "../kernels/convolution.h"
#include "tflite_c_abi.h"

namespace keras_prune {

constexpr char kPackedConvName[] = "KerasPruneConv2D";

// The registration that stands in for one such operator; `init` expects TfLiteDelegateParams with one node, whose
// delegate's data points to a Shared.
TfLiteRegistration PackedConvRegistration();

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_PACKED_CONV_H_
