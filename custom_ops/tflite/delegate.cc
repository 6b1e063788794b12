// The delegate: takes the packed operators of a graph and leaves all others to the runtime (and to XNNPACK).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"
#include "packed_conv.h"
#include "packed_fc.h"
#include "shared.h"
#include "unpack.h"

namespace keras_prune {
namespace {

bool IsNamed(const TfLiteRegistration& registration, const char* name) {
  return registration.builtin_code == kTfLiteBuiltinCustom && registration.custom_name != nullptr &&
         strcmp(registration.custom_name, name) == 0;
}

// The runtime needs time for each node that is taken which grows with their number: 5 s for this many.
constexpr int kMostPackedNodes = 4096;

// The graph's nodes in order, how many of them are packed operators, and how many write each tensor (255: that many or
// more).
struct Plan {
  int* nodes;
  int count;
  int num_packed;
  uint8_t* writers;
};

bool IsPacked(const TfLiteRegistration& registration) {
  return IsNamed(registration, kUnpackName) || IsNamed(registration, kPackedFcName) ||
         IsNamed(registration, kPackedConvName);
}

// An operator of ours that only later releases have. The runtime's "unresolved custom op" would not say what to do.
TfLiteStatus CheckKnown(TfLiteContext* context, const TfLiteRegistration& op) {
  const bool is_ours = op.builtin_code == kTfLiteBuiltinCustom && op.custom_name != nullptr &&
                       strncmp(op.custom_name, "KerasPrune", strlen("KerasPrune")) == 0;
  KP_CHECK(!is_ours || IsPacked(op),
           "keras_prune delegate: expected %s, %s or %s, got the operator %s; install a newer keras_prune",
           kPackedFcName, kPackedConvName, kUnpackName, op.custom_name);
  return kTfLiteOk;
}

TfLiteStatus CountNodes(TfLiteContext* context, Plan* plan) {
  for (int i = 0; i < plan->count; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, plan->nodes[i], &node, &registration) != kTfLiteOk)
      return kTfLiteError;
    if (CheckKnown(context, *registration) != kTfLiteOk) return kTfLiteError;
    plan->num_packed += IsPacked(*registration);
    for (int k = 0; k < node->outputs->size; ++k) {
      const int tensor = node->outputs->data[k];
      if (TensorExists(context, tensor) && plan->writers[tensor] != 255) ++plan->writers[tensor];
    }
  }
  KP_CHECK(plan->num_packed <= kMostPackedNodes,
           "keras_prune delegate: expected at most %d packed operators in a graph, got %d; export the model again",
           kMostPackedNodes, plan->num_packed);
  return kTfLiteOk;
}

// The runtime's plan is not valid after the next call, hence the copy.
TfLiteStatus CopyPlan(TfLiteContext* context, Plan* copy) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  copy->count = plan->size;
  copy->nodes = static_cast<int*>(malloc(sizeof(int) * (static_cast<size_t>(plan->size) + 1)));
  copy->writers = static_cast<uint8_t*>(calloc(context->tensors_size + 1, 1));
  if (copy->nodes == nullptr || copy->writers == nullptr) return kTfLiteError;
  memcpy(copy->nodes, plan->data, sizeof(int) * static_cast<size_t>(plan->size));
  return CountNodes(context, copy);
}

// A constant that another operator writes to would be no constant.
TfLiteStatus CheckOnlyWriter(TfLiteContext* context, const Plan& plan, const TfLiteNode& node) {
  for (int i = 0; i < node.outputs->size; ++i) {
    const int tensor = node.outputs->data[i];
    KP_CHECK(!TensorExists(context, tensor) || plan.writers[tensor] == 1,
             "%s: output %s: expected a tensor that only this operator writes, got one that is written %d times; "
             "export the model again",
             kUnpackName, NameOf(context->tensors[tensor]), plan.writers[tensor]);
  }
  return kTfLiteOk;
}

// What stands in for a packed operator.
TfLiteRegistration KernelOf(const TfLiteRegistration& op) {
  if (IsNamed(op, kUnpackName)) return UnpackRegistration();
  return IsNamed(op, kPackedConvName) ? PackedConvRegistration() : PackedFcRegistration();
}

// One subset for each node: each becomes a kernel of its own, in its place in the plan.
TfLiteStatus TakeNode(TfLiteContext* context, TfLiteDelegate* delegate, const Plan& plan, int index) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
  if (!IsPacked(*registration)) return kTfLiteOk;
  const bool unpacks = IsNamed(*registration, kUnpackName);
  if (unpacks && CheckOnlyWriter(context, plan, *node) != kTfLiteOk) return kTfLiteError;
  const TfLiteIntArray one = {1, {index}};
  if (context->ReplaceNodeSubsetsWithDelegateKernels(context, KernelOf(*registration), &one, delegate) != kTfLiteOk ||
      context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk) {
    return kTfLiteError;
  }
  // Other delegates look at the weights before the runtime prepares anything: it must not come to that without them.
  return !unpacks || IsUnpacked(context, *node) ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus PrepareDelegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  Plan plan = {nullptr, 0, 0, nullptr};
  TfLiteStatus status = CopyPlan(context, &plan);
  for (int i = 0; i < plan.count && status == kTfLiteOk; ++i) {
    status = TakeNode(context, delegate, plan, plan.nodes[i]);
  }
  free(plan.nodes);
  free(plan.writers);
  if (status != kTfLiteOk) context->ReportError(context, "keras_prune delegate: the packed operators were not taken");
  return status;
}

struct Delegate {
  TfLiteDelegate tflite;
  Shared shared;
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
                    "keras_prune delegate: isa (or KERAS_PRUNE_ISA): expected reference, scalar, avx2, avx512, "
                    "avx512vbmi, neon or neondot, supported by this CPU, got '%s'; leave it out to take the best",
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
  made->shared.isa = isa;
  made->shared.most_threads = keras_prune::NumCpus();
  made->tflite.data = &made->shared;
  made->tflite.Prepare = keras_prune::PrepareDelegate;
  made->tflite.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return &made->tflite;
}

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  if (delegate == nullptr) return;
  keras_prune::FreePools(static_cast<keras_prune::Shared*>(delegate->data));
  free(delegate);  // the head of keras_prune::Delegate
}

}  // extern "C"
