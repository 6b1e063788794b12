// What the ops share: owners of what TensorFlow hands out for the time of one call, and their registration.
#ifndef KERAS_PRUNE_TF_CALL_H_
#define KERAS_PRUNE_TF_CALL_H_

#include "tf_c_api.h"

namespace keras_prune {

struct Tensor {
  TF_Tensor* tensor = nullptr;
  Tensor() = default;
  ~Tensor() {
    if (tensor != nullptr) tf.TF_DeleteTensor(tensor);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  TF_Tensor* Take() {
    TF_Tensor* taken = tensor;
    tensor = nullptr;
    return taken;
  }
};

struct CallStatus {
  TF_Status* status = tf.TF_NewStatus();
  CallStatus() = default;
  ~CallStatus() { tf.TF_DeleteStatus(status); }
  CallStatus(const CallStatus&) = delete;
  CallStatus& operator=(const CallStatus&) = delete;
  bool ok() const { return tf.TF_GetCode(status) == kTfOk; }
};

// Sets `status` to "<op>: <message>"; always false.
__attribute__((format(printf, 4, 5))) bool FailCall(TF_Status* status, int code, const char* op, const char* format,
                                                    ...);

// Where SelectIsa finds an instruction set in the environment that it cannot take.
constexpr char kUnknownIsa[] =
    "KERAS_PRUNE_ISA names an instruction set that is unknown or that this CPU lacks; unset it";

// An op and its one kernel for the CPU.
struct OpRegistration {
  const char* name;
  bool (*register_op)(TF_Status*);
  KpCreateFunction create;
  KpComputeFunction compute;
  KpDeleteFunction destroy;
};

// Called when the library is loaded. A failure is told on stderr and leaves the op unknown; the process goes on. Nothing
// happens where the process has the op already, from a copy of this library at another path: TensorFlow ends the
// process where a name is registered twice.
void RegisterOpAndKernel(const OpRegistration& registration);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_CALL_H_
