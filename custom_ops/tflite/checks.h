// What the delegate's operators check alike. An error says what was expected, what came and what to do.
#ifndef KERAS_PRUNE_TFLITE_CHECKS_H_
#define KERAS_PRUNE_TFLITE_CHECKS_H_

#include "tflite_c_abi.h"

// Reports (printf-style) and leaves the function.
#define KP_CHECK(condition, ...)                  \
  do {                                            \
    if (!(condition)) {                           \
      context->ReportError(context, __VA_ARGS__); \
      return kTfLiteError;                        \
    }                                             \
  } while (false)

namespace keras_prune {

constexpr int kOptionsBytes = 8, kMostOptionsBytes = 12;

// The operators' custom options: version, three bytes of the operator, checksum, and four more bytes of some operators;
// of version 2: version, a byte of the operator, two bytes of the checksum, four bytes of the operator. The checksum is
// of all bytes but its own.
struct Options {
  int size;  // as it is in the file
  uint8_t bytes[kMostOptionsBytes];
};

const char* NameOf(const TfLiteTensor& tensor);
bool IsConstant(const TfLiteTensor& tensor);
bool TensorExists(const TfLiteContext* context, int index);

Options ReadOptions(const TfLiteNode& node);
// An operator with a version 2 may also have the four more bytes of version 1.
TfLiteStatus CheckOptions(TfLiteContext* context, const char* op, const Options& options, uint8_t newest = 1);

// A constant of bytes in one dimension.
TfLiteStatus CheckPackedTensor(TfLiteContext* context, const char* op, int index);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TFLITE_CHECKS_H_
