#include "tf_c_api.h"

#ifdef KERAS_PRUNE_TF_LINKED  // the host links TensorFlow and this file into one binary, as a server does
extern "C" {
#define KERAS_PRUNE_EXTERN(name, result, parameters) result name parameters;
KERAS_PRUNE_TF_API(KERAS_PRUNE_EXTERN)
#undef KERAS_PRUNE_EXTERN
}
#else
#include <dlfcn.h>

#include "old_glibc.h"

KP_OLD_GLIBC(dlopen);
KP_OLD_GLIBC(dlsym);
KP_OLD_GLIBC(dlclose);
#endif

namespace keras_prune {

TfApi tf;

#ifdef KERAS_PRUNE_TF_LINKED

const char* LoadTfApi() {
#define KERAS_PRUNE_ASSIGN(name, result, parameters) tf.name = ::name;
  KERAS_PRUNE_TF_API(KERAS_PRUNE_ASSIGN)
#undef KERAS_PRUNE_ASSIGN
  return nullptr;
}

#else

namespace {

// TensorFlow is in the process already: it is what loads this library. Its own libraries come first, as Python loads
// them without making their symbols global; the global scope serves a host that is linked with TensorFlow statically.
void* FindSymbol(const char* name) {
  static const char* const kLibraries[] = {"libtensorflow_framework.so.2", "libtensorflow_cc.so.2",
                                           "libtensorflow.so.2"};
  for (const char* library : kLibraries) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    void* symbol = dlsym(handle, name);
    dlclose(handle);  // gives back RTLD_NOLOAD's reference; TensorFlow stays loaded by its owner
    if (symbol != nullptr) return symbol;
  }
  return dlsym(RTLD_DEFAULT, name);
}

}  // namespace

const char* LoadTfApi() {
#define KERAS_PRUNE_FIND(name, result, parameters)                        \
  tf.name = reinterpret_cast<result(*) parameters>(FindSymbol(#name)); \
  if (tf.name == nullptr) return #name;
  KERAS_PRUNE_TF_API(KERAS_PRUNE_FIND)
#undef KERAS_PRUNE_FIND
  return nullptr;
}

#endif  // KERAS_PRUNE_TF_LINKED

}  // namespace keras_prune
