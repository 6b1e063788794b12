// What the operators of one delegate share: the instruction set and the threads.
#ifndef KERAS_PRUNE_TFLITE_SHARED_H_
#define KERAS_PRUNE_TFLITE_SHARED_H_

#include "../kernels/isa.h"
#include "../kernels/workers.h"
#include "tflite_c_abi.h"

namespace keras_prune {

// What a delegate's `data` points to.
struct Shared {
  Isa isa;
  int most_threads;  // whatever the interpreters ask for: the CPUs
  WorkersList* workers;
};

// The threads for an interpreter's operators; null: the caller's alone. An interpreter that is given another number of
// threads leaves those of before asleep.
inline Workers* WorkersFor(Shared* shared, const TfLiteContext& context) {
  // -1: the user did not say; the runtime's own operators, and XNNPACK's, compute on one thread then.
  const int wanted = context.recommended_num_threads;
  return WorkersFor(&shared->workers, wanted < shared->most_threads ? wanted : shared->most_threads);
}

// Ends the threads; all operators are freed.
inline void FreePools(Shared* shared) { FreeAllWorkers(&shared->workers); }

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_SHARED_H_
