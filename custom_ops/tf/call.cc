#include "call.h"

#include <cstdarg>
#include <cstdio>

namespace keras_prune {
namespace {

bool IsRegistered(const char* name, TF_Status* status) {
  TF_Buffer* kernels = tf.TF_GetRegisteredKernelsForOp(name, status);
  if (kernels == nullptr) return false;
  const bool found = kernels->length != 0;  // a serialized list
  tf.TF_DeleteBuffer(kernels);
  return found;
}

}  // namespace

bool FailCall(TF_Status* status, int code, const char* op, const char* format, ...) {
  char message[512];
  const int used = snprintf(message, sizeof message, "%s: ", op);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message + used, sizeof message - used, format, arguments);
  va_end(arguments);
  tf.TF_SetStatus(status, code, message);
  return false;
}

void RegisterOpAndKernel(const OpRegistration& registration) {
  const char* missing = LoadTfApi();
  if (missing != nullptr) {
    fprintf(stderr, "keras_prune: %s is not in this process: load the op from TensorFlow 2.16 or newer\n", missing);
    return;
  }
  CallStatus call;
  const char* name = registration.name;
  if (IsRegistered(name, call.status)) return;
  if (call.ok() && registration.register_op(call.status)) {
    TF_KernelBuilder* builder =
        tf.TF_NewKernelBuilder(name, "CPU", registration.create, registration.compute, registration.destroy);
    tf.TF_RegisterKernelBuilder(name, builder, call.status);
  }
  if (!call.ok()) fprintf(stderr, "keras_prune: %s was not registered: %s\n", name, tf.TF_Message(call.status));
}

}  // namespace keras_prune
