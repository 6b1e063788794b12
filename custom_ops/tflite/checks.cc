#include "checks.h"

#include <string.h>

#include "../sparse_format.h"

namespace keras_prune {
namespace {

constexpr uint8_t kOptionsVersion = 1;

}  // namespace

const char* NameOf(const TfLiteTensor& tensor) { return tensor.name != nullptr ? tensor.name : "(no name)"; }

bool IsConstant(const TfLiteTensor& tensor) {
  return tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
}

bool TensorExists(const TfLiteContext* context, int index) {
  return index >= 0 && static_cast<size_t>(index) < context->tensors_size;
}

Options ReadOptions(const TfLiteNode& node) {
  Options options = {node.custom_initial_data != nullptr ? node.custom_initial_data_size : 0, {}};
  const bool fits = options.size >= kOptionsBytes && options.size <= kMostOptionsBytes;
  if (fits) memcpy(options.bytes, node.custom_initial_data, static_cast<size_t>(options.size));
  return options;
}

TfLiteStatus CheckOptions(TfLiteContext* context, const char* op, const Options& options, int most_bytes) {
  KP_CHECK(options.size == kOptionsBytes || options.size == most_bytes,
           "%s: expected %d bytes of options, got %d; export the model again", op, kOptionsBytes, options.size);
  const uint8_t* o = options.bytes;
  KP_CHECK(o[0] == kOptionsVersion, "%s: expected options version %d, got %d; install a keras_prune that reads it", op,
           kOptionsVersion, o[0]);
  KP_CHECK(Load32(o + 4) == Crc32(Crc32(0, o, 4), o + 8, static_cast<size_t>(options.size) - 8),
           "%s: the options' checksum does not match (corrupt); export the model again", op);
  return kTfLiteOk;
}

TfLiteStatus CheckPackedTensor(TfLiteContext* context, const char* op, int index) {
  const TfLiteTensor& t = context->tensors[index];
  KP_CHECK(t.type == kTfLiteUInt8, "%s: packed weights %s: expected uint8, got type %d; export the model again", op,
           NameOf(t), t.type);
  KP_CHECK(IsConstant(t) && t.data != nullptr,
           "%s: packed weights %s: expected a constant, got a computed tensor; export the model again", op, NameOf(t));
  KP_CHECK(t.dims != nullptr && t.dims->size == 1 && static_cast<size_t>(t.dims->data[0]) == t.bytes,
           "%s: packed weights %s: expected shape [%d], got rank %d; export the model again", op, NameOf(t),
           static_cast<int>(t.bytes), t.dims != nullptr ? t.dims->size : 0);
  return kTfLiteOk;
}

}  // namespace keras_prune
