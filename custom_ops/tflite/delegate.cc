// The delegate: takes the packed operators of a graph and leaves all others to the runtime (and to XNNPACK).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "packed_fc.h"

namespace keras_prune {
namespace {

// Collects the indices of the packed operators; the runtime's plan is not valid after the next call, hence the copy.
TfLiteStatus FindPackedNodes(TfLiteContext* context, int** nodes, int* count) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  const int size = plan->size;
  *count = 0;
  *nodes = static_cast<int*>(malloc(sizeof(int) * (size + 1)));
  if (*nodes == nullptr) return kTfLiteError;
  memcpy(*nodes, plan->data, sizeof(int) * size);
  for (int i = 0; i < size; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, (*nodes)[i], &node, &registration) != kTfLiteOk) return kTfLiteError;
    if (registration->builtin_code == kTfLiteBuiltinCustom && registration->custom_name != nullptr &&
        strcmp(registration->custom_name, kPackedFcName) == 0) {
      (*nodes)[(*count)++] = (*nodes)[i];
    }
  }
  return kTfLiteOk;
}

// One subset for each node: each becomes a kernel of its own, in its place in the plan.
TfLiteStatus PrepareDelegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  int* nodes = nullptr;
  int count = 0;
  TfLiteStatus status = FindPackedNodes(context, &nodes, &count);
  for (int i = 0; i < count && status == kTfLiteOk; ++i) {
    const TfLiteIntArray one = {1, {nodes[i]}};
    status = context->ReplaceNodeSubsetsWithDelegateKernels(context, PackedFcRegistration(), &one, delegate);
  }
  free(nodes);
  if (status != kTfLiteOk) context->ReportError(context, "keras_prune delegate: the graph's plan could not be changed");
  return status;
}

struct Delegate {
  TfLiteDelegate tflite;
  Isa isa;
};

using Report = void (*)(const char* message);

bool Fail(Report report, const char* format, const char* value) {
  char message[256];
  snprintf(message, sizeof message, format, value);
  if (report != nullptr) report(message);
  return false;
}

bool ReadPluginOptions(const char* const* keys, const char* const* values, size_t count, Report report, Isa* isa) {
  const char* wanted = getenv("KERAS_PRUNE_ISA");
  bool ok;
  *isa = SelectIsa(&ok);
  for (size_t i = 0; i < count; ++i) {
    if (strcmp(keys[i], "isa") != 0) {
      return Fail(report, "keras_prune delegate: unknown option '%s'; the only one is 'isa'", keys[i]);
    }
    wanted = values[i];
    ok = IsaFromName(wanted, isa) && IsaSupported(*isa);
  }
  return ok || Fail(report,
                    "keras_prune delegate: isa (or KERAS_PRUNE_ISA): expected reference, scalar, avx2 or avx512, "
                    "supported by this CPU, got '%s'; leave it out to take the best",
                    wanted);
}

}  // namespace
}  // namespace keras_prune

extern "C" {

__attribute__((visibility("default"))) TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys,
                                                                                     const char* const* values,
                                                                                     size_t count,
                                                                                     void (*report)(const char*)) {
  keras_prune::Isa isa;
  if (!keras_prune::ReadPluginOptions(keys, values, count, report, &isa)) return nullptr;
  auto* made = static_cast<keras_prune::Delegate*>(calloc(1, sizeof(keras_prune::Delegate)));
  if (made == nullptr) {
    keras_prune::Fail(report, "keras_prune delegate: out of %s", "memory");
    return nullptr;
  }
  made->isa = isa;
  made->tflite.data = &made->isa;
  made->tflite.Prepare = keras_prune::PrepareDelegate;
  made->tflite.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return &made->tflite;
}

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  free(delegate);  // the head of keras_prune::Delegate
}

}  // extern "C"
