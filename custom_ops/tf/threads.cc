#include "threads.h"

#include <stdlib.h>

#include <algorithm>

namespace keras_prune {
namespace {

int num_wanted;   // by the host; 0: not set
int num_default;  // 0: not known yet
int num_computing;
WorkersList* pools;

int ReadDefault() {
  const char* text = getenv("TF_NUM_INTRAOP_THREADS");
  const int wanted = text != nullptr ? atoi(text) : 0;
  return wanted > 0 ? std::min(wanted, NumCpus()) : NumCpus();
}

int NumThreadsOfCall() {
  int known = __atomic_load_n(&num_default, __ATOMIC_RELAXED);
  if (known == 0) __atomic_store_n(&num_default, known = ReadDefault(), __ATOMIC_RELAXED);
  const int wanted = __atomic_load_n(&num_wanted, __ATOMIC_RELAXED);
  return wanted > 0 ? wanted : known;
}

// Where this library is unloaded. At the end of the process calls may still be computing: then the threads stay.
__attribute__((destructor)) void EndThreads() {
  if (__atomic_load_n(&num_computing, __ATOMIC_SEQ_CST) == 0) FreeAllWorkers(&pools);
}

}  // namespace

Computing::Computing() : is_alone_(__atomic_fetch_add(&num_computing, 1, __ATOMIC_SEQ_CST) == 0) {}
Computing::~Computing() { __atomic_sub_fetch(&num_computing, 1, __ATOMIC_SEQ_CST); }

Workers* Computing::workers() const { return is_alone_ ? WorkersFor(&pools, NumThreadsOfCall()) : nullptr; }

void SetNumThreads(int num_threads) {
  __atomic_store_n(&num_wanted, num_threads > 0 ? std::min(num_threads, NumCpus()) : 0, __ATOMIC_RELAXED);
}

}  // namespace keras_prune
