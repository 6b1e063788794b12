// What the operators of one delegate share: the instruction set and the threads.
#ifndef KERAS_PRUNE_TFLITE_SHARED_H_
#define KERAS_PRUNE_TFLITE_SHARED_H_

#include "../kernels/isa.h"
#include "../kernels/workers.h"
#include "tflite_c_abi.h"

namespace keras_prune {

struct Pool;  // opaque

// What a delegate's `data` points to.
struct Shared {
  Isa isa;
  int most_threads;  // whatever the interpreters ask for: the CPUs
  Pool* pools;       // one for each number of threads; null at first
};

// The threads for an interpreter's operators; null: the caller's alone. Interpreters that share a delegate share them.
Workers* WorkersFor(Shared* shared, const TfLiteContext& context);

// Ends the threads; all operators are freed.
void FreePools(Shared* shared);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_SHARED_H_
