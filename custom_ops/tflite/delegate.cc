// The delegate: takes the packed operators of a graph and leaves all others to the runtime (and to XNNPACK).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "packed_fc.h"
#include "unpack.h"

namespace keras_prune {
namespace {

bool IsNamed(const TfLiteRegistration& registration, const char* name) {
  return registration.builtin_code == kTfLiteBuiltinCustom && registration.custom_name != nullptr &&
         strcmp(registration.custom_name, name) == 0;
}

// The indices of a graph's nodes, in order.
struct Plan {
  int* nodes;
  int count;
};

// The runtime's plan is not valid after the next call, hence the copy.
TfLiteStatus CopyPlan(TfLiteContext* context, Plan* copy) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  copy->count = plan->size;
  copy->nodes = static_cast<int*>(malloc(sizeof(int) * (static_cast<size_t>(plan->size) + 1)));
  if (copy->nodes == nullptr) return kTfLiteError;
  memcpy(copy->nodes, plan->data, sizeof(int) * static_cast<size_t>(plan->size));
  return kTfLiteOk;
}

bool Writes(const TfLiteNode& node, int tensor) {
  for (int i = 0; i < node.outputs->size; ++i) {
    if (node.outputs->data[i] == tensor) return true;
  }
  return false;
}

// A constant that another operator writes to would be no constant.
TfLiteStatus CheckOtherWriters(TfLiteContext* context, const Plan& plan, int index, const TfLiteNode& node) {
  for (int i = 0; i < plan.count; ++i) {
    TfLiteNode* other;
    TfLiteRegistration* registration;
    if (plan.nodes[i] == index) continue;
    if (context->GetNodeAndRegistration(context, plan.nodes[i], &other, &registration) != kTfLiteOk)
      return kTfLiteError;
    for (int k = 0; k < node.outputs->size; ++k) {
      if (Writes(*other, node.outputs->data[k])) {
        context->ReportError(context,
                             "%s: output %d: expected a tensor that only this operator writes, got one that node %d "
                             "writes too; export the model again",
                             kUnpackName, k, plan.nodes[i]);
        return kTfLiteError;
      }
    }
  }
  return kTfLiteOk;
}

// One subset for each node: each becomes a kernel of its own, in its place in the plan.
TfLiteStatus TakeNode(TfLiteContext* context, TfLiteDelegate* delegate, const Plan& plan, int index) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
  const bool unpacks = IsNamed(*registration, kUnpackName);
  if (!unpacks && !IsNamed(*registration, kPackedFcName)) return kTfLiteOk;
  if (unpacks && CheckOtherWriters(context, plan, index, *node) != kTfLiteOk) return kTfLiteError;
  const TfLiteIntArray one = {1, {index}};
  if (context->ReplaceNodeSubsetsWithDelegateKernels(context, unpacks ? UnpackRegistration() : PackedFcRegistration(),
                                                     &one, delegate) != kTfLiteOk ||
      context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk) {
    return kTfLiteError;
  }
  // Other delegates look at the weights before the runtime prepares anything: it must not come to that without them.
  return !unpacks || IsUnpacked(context, *node) ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus PrepareDelegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  Plan plan = {nullptr, 0};
  TfLiteStatus status = CopyPlan(context, &plan);
  for (int i = 0; i < plan.count && status == kTfLiteOk; ++i) {
    status = TakeNode(context, delegate, plan, plan.nodes[i]);
  }
  free(plan.nodes);
  if (status != kTfLiteOk) context->ReportError(context, "keras_prune delegate: the packed operators were not taken");
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
