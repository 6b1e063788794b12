// A few threads that share one call's work.
#ifndef KERAS_PRUNE_KERNELS_WORKERS_H_
#define KERAS_PRUNE_KERNELS_WORKERS_H_

namespace keras_prune {

struct Workers;  // opaque; it may be used by several threads at once

// `num_threads` counts the caller's own; null when it is 1 or less, or without memory. No thread is started before the
// first call that has parts for one, and no CPU time is used between calls, but for some microseconds after each.
Workers* MakeWorkers(int num_threads);

// Ends the threads; nobody may be computing on them.
void FreeWorkers(Workers* workers);
int NumThreads(const Workers* workers);  // 1 for null

// Calls task(context, part) for each part from 0 to num_parts - 1, on the caller's thread and the others, whoever is free
// takes the next; returns when all are done. All parts see the caller's rounding and treatment of denormals. One call at
// a time computes on the workers: a caller that finds them busy does its parts alone, and so does a process that was
// forked after the threads were started, for it has none of them.
void RunParts(Workers* workers, int num_parts, void (*task)(void* context, int part), void* context);

// Workers by their number of threads: those who share such a list and want the same number share the workers. Null is an
// empty list. Several threads may ask at once; what was handed out stays until all are freed, when nobody uses any.
struct WorkersList;  // opaque
Workers* WorkersFor(WorkersList** list, int num_threads);  // as MakeWorkers
void FreeAllWorkers(WorkersList** list);

// CPUs that this process may run on: more threads than that only take turns.
int NumCpus();

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_WORKERS_H_
