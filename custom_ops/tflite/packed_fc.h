// The operator KerasPruneFullyConnected: what it checks and how it runs. docs/format.md describes inputs and options.
#ifndef KERAS_PRUNE_TFLITE_PACKED_FC_H_
#define KERAS_PRUNE_TFLITE_PACKED_FC_H_

#include "../kernels/fully_connected.h"
#include "tflite_c_abi.h"

namespace keras_prune {

constexpr char kPackedFcName[] = "KerasPruneFullyConnected";

// The registration that stands in for one such operator; `init` expects TfLiteDelegateParams with one node, whose
// delegate's data points to what its operators share.
TfLiteRegistration PackedFcRegistration();

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_PACKED_FC_H_
