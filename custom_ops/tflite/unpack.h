// The operator KerasPruneUnpack: packed weights of operators that the runtime computes. docs/format.md describes it.
//
// Its values are there before other delegates look at the graph: the delegate decodes them as soon as it takes the
// operator, into memory of its own, and declares the output tensors to be constants. To the runtime and to XNNPACK they
// are then as if they had stood in the file.
#ifndef KERAS_PRUNE_TFLITE_UNPACK_H_
#define KERAS_PRUNE_TFLITE_UNPACK_H_

#include "tflite_c_abi.h"

namespace keras_prune {

constexpr char kUnpackName[] = "KerasPruneUnpack";

// The registration that stands in for one such operator. `init` decodes; it expects TfLiteDelegateParams with one node.
// Where it reported an error, outputs are not constants.
TfLiteRegistration UnpackRegistration();

// Whether an operator has outputs and all of them are constants.
bool IsUnpacked(const TfLiteContext* context, const TfLiteNode& node);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_UNPACK_H_
