// Threads that send one request again and again, and what that cost.
#ifndef KERAS_PRUNE_SERVING_HOST_LOAD_TEST_H_
#define KERAS_PRUNE_SERVING_HOST_LOAD_TEST_H_

#include <string>

#include "versions.h"

namespace keras_prune_serving {

// Bytes of this process in memory.
long ResidentBytes();

// Reads lines "<number of threads> <requests of each thread> <seconds> <milliseconds between reloads>" from the standard
// input (0 seconds, 0 milliseconds: no end by time, no reloads; a thread ends with whichever comes first), and
// answers each with a line of JSON. Requests, errors and times add up over the lines. Each answer of a version must have
// the bytes of its first, which is written to <responses>.<version>.
int RunLoadTests(const std::string& request, const std::string& responses, Versions* versions);

}  // namespace keras_prune_serving

#endif  // KERAS_PRUNE_SERVING_HOST_LOAD_TEST_H_
