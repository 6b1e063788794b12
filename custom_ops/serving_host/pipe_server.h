// Answers requests that come on the standard input, several at a time: what a front (gRPC, REST) in another process needs.
#ifndef KERAS_PRUNE_SERVING_HOST_PIPE_SERVER_H_
#define KERAS_PRUNE_SERVING_HOST_PIPE_SERVER_H_

#include "versions.h"

namespace keras_prune_serving {

// A request: uint32 size, uint32 id, then `size` bytes, what Predict takes; or nothing, which means: serve the
// newest version. An answer: uint32 size, uint32 id of its request, int32 code, int64 version, then `size` bytes: Reply.
// Little-endian, unaligned. Ends with the input.
int RunPipeServer(int num_workers, Versions* versions);

}  // namespace keras_prune_serving

#endif  // KERAS_PRUNE_SERVING_HOST_PIPE_SERVER_H_
