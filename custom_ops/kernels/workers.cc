// The caller's thread alone: the interface is there before the threads are.
#include "workers.h"

namespace keras_prune {

Workers* MakeWorkers(int) { return nullptr; }
void FreeWorkers(Workers*) {}
int NumThreads(const Workers*) { return 1; }

void RunParts(Workers*, int num_parts, void (*task)(void* context, int part), void* context) {
  for (int part = 0; part < num_parts; ++part) task(context, part);
}

}  // namespace keras_prune
