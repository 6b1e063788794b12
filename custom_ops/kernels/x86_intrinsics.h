// Intel's vector intrinsics: the compiler's, or, to test AVX-512 kernels on a CPU without it, functions that do the same.
#ifndef KERAS_PRUNE_KERNELS_X86_INTRINSICS_H_
#define KERAS_PRUNE_KERNELS_X86_INTRINSICS_H_

#if defined(KERAS_PRUNE_SIMDE)
#include "../tests/avx512_emulation.h"
#else
#include <immintrin.h>
#endif

#endif  // KERAS_PRUNE_KERNELS_X86_INTRINSICS_H_
