// The native half of org.kerasprune.KerasPruneDelegate.
#include <jni.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

extern "C" {

struct TfLiteDelegate;
TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                              void (*report)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

}  // extern "C"

namespace {

// What the delegate said last. Its callback gets nothing of the caller's; Java calls `create` from one thread at a time.
char problem[256];

void Report(const char* message) { snprintf(problem, sizeof problem, "%s", message); }

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_kerasprune_KerasPruneDelegate_create(JNIEnv* env, jclass) {
  Report("the delegate could not be made");
  TfLiteDelegate* made = tflite_plugin_create_delegate(nullptr, nullptr, 0, Report);
  if (made == nullptr) {
    jclass error = env->FindClass("java/lang/IllegalStateException");
    if (error != nullptr) env->ThrowNew(error, problem);
  }
  return static_cast<jlong>(reinterpret_cast<intptr_t>(made));
}

JNIEXPORT void JNICALL Java_org_kerasprune_KerasPruneDelegate_destroy(JNIEnv*, jclass, jlong handle) {
  tflite_plugin_destroy_delegate(reinterpret_cast<TfLiteDelegate*>(static_cast<intptr_t>(handle)));
}

}  // extern "C"
