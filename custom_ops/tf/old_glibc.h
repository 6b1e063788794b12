// Functions that glibc 2.34 moved into libc from libdl and libpthread, and gave a new version by that. Naming the old one,
// which is still there, lets a library that was linked with a newer glibc load on an older one, in processes that have
// those two, as all with TensorFlow do.
#ifndef KERAS_PRUNE_TF_OLD_GLIBC_H_
#define KERAS_PRUNE_TF_OLD_GLIBC_H_

#include <stdlib.h>  // __GLIBC__

#if defined(__has_feature)
#define KP_HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KP_HAS_SANITIZER 1  // sanitizers put their own functions in place of these
#else
#define KP_HAS_SANITIZER 0
#endif

#if defined(__GLIBC__) && defined(__x86_64__) && !KP_HAS_SANITIZER
#define KP_OLD_GLIBC(name) __asm__(".symver " #name ", " #name "@GLIBC_2.2.5")
#elif defined(__GLIBC__) && defined(__aarch64__) && !KP_HAS_SANITIZER
#define KP_OLD_GLIBC(name) __asm__(".symver " #name ", " #name "@GLIBC_2.17")
#else
#define KP_OLD_GLIBC(name) static_assert(true, "")
#endif

#endif  // KERAS_PRUNE_TF_OLD_GLIBC_H_
