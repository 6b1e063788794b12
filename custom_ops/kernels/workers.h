// A few threads that share one call's work.
#ifndef KERAS_PRUNE_KERNELS_WORKERS_H_
#define KERAS_PRUNE_KERNELS_WORKERS_H_

namespace keras_prune {

struct Workers;  // opaque

// `num_threads` counts the caller's own; null when it is 1 or less, or when no thread can be started.
Workers* MakeWorkers(int num_threads);
void FreeWorkers(Workers* workers);
int NumThreads(const Workers* workers);  // 1 for null

// Calls task(context, part) for each part from 0 to num_parts - 1, on the caller's thread and the others; returns when all
// are done. One call at a time computes on the workers: a caller that finds them busy does its parts alone.
void RunParts(Workers* workers, int num_parts, void (*task)(void* context, int part), void* context);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_WORKERS_H_
