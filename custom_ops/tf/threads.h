// The threads of the TensorFlow op.
//
// TensorFlow's C API (2.16 to 2.21) does not lend its intra-op pool to kernels, nor say how large it is. The op has a
// pool of its own, one for the process, which sleeps between calls, and keeps to the number that TensorFlow keeps to:
// what the host sets by KerasPruneTfSetNumThreads (Python: tf.config.threading), else the environment variable
// TF_NUM_INTRAOP_THREADS, else as many as there are CPUs; never more than those.
#ifndef KERAS_PRUNE_TF_THREADS_H_
#define KERAS_PRUNE_TF_THREADS_H_

#include "../kernels/workers.h"

namespace keras_prune {

// Exists while a call computes. Calls that compute at the same time do so on one thread each, TensorFlow's: with the pool
// there would be more threads than TensorFlow was given CPUs.
class Computing {
 public:
  Computing();
  ~Computing();
  Computing(const Computing&) = delete;
  Computing& operator=(const Computing&) = delete;

  // The pool where the caller may use it; else null.
  Workers* workers() const;

 private:
  bool is_alone_;
};

// At most this many threads for a call; 0 or less: as TensorFlow does by itself.
void SetNumThreads(int num_threads);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_THREADS_H_
