#include "shared.h"

#include <stdlib.h>

namespace keras_prune {

// In a list that only grows, so that interpreters may prepare at the same time. An interpreter that is given another
// number of threads leaves those of before asleep.
struct Pool {
  Workers* workers;
  Pool* next;
};

Workers* WorkersFor(Shared* shared, const TfLiteContext& context) {
  // -1: the user did not say; the runtime's own operators, and XNNPACK's, compute on one thread then.
  int wanted = context.recommended_num_threads;
  if (wanted > shared->most_threads) wanted = shared->most_threads;
  Pool* first = __atomic_load_n(&shared->pools, __ATOMIC_ACQUIRE);
  for (Pool* pool = first; pool != nullptr; pool = pool->next) {
    if (NumThreads(pool->workers) == wanted) return pool->workers;
  }
  Workers* workers = MakeWorkers(wanted);
  if (workers == nullptr) return nullptr;
  auto* pool = static_cast<Pool*>(malloc(sizeof(Pool)));
  if (pool == nullptr) {
    FreeWorkers(workers);
    return nullptr;
  }
  *pool = {workers, first};
  // Where two prepare at once there may be two of a kind, which only costs the memory.
  while (!__atomic_compare_exchange_n(&shared->pools, &pool->next, pool, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
  return workers;
}

void FreePools(Shared* shared) {
  while (shared->pools != nullptr) {
    Pool* pool = shared->pools;
    shared->pools = pool->next;
    FreeWorkers(pool->workers);
    free(pool);
  }
}

}  // namespace keras_prune
