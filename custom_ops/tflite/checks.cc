#include "checks.h"

#include <string.h>

#include "../sparse_format.h"

namespace keras_prune {
namespace {

bool HasChecksum(const uint8_t* o, int size) {
  if (o[0] == 1) return Load32(o + 4) == Crc32(Crc32(0, o, 4), o + 8, static_cast<size_t>(size) - 8);
  const uint32_t crc = Crc32(Crc32(0, o, 2), o + 4, 4);
  return o[2] == (crc & 255) && o[3] == (crc >> 8 & 255);
}

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
  const int known = options.size < kMostOptionsBytes ? options.size : kMostOptionsBytes;
  if (known > 0) memcpy(options.bytes, node.custom_initial_data, static_cast<size_t>(known));
  return options;
}

// The version first: newer ones may have other sizes.
TfLiteStatus CheckOptions(TfLiteContext* context, const char* op, const Options& options, uint8_t newest) {
  const uint8_t version = options.bytes[0];
  KP_CHECK(options.size == 0 || (version >= 1 && version <= newest),
           "%s: expected options version %s, got %d; install a keras_prune that reads it", op,
           newest == 1 ? "1" : "1 or 2", version);
  const bool is_long = newest == 2 && version == 1 && options.size == kMostOptionsBytes;
  KP_CHECK(is_long || options.size == kOptionsBytes, "%s: expected %d bytes of options, got %d; export the model again",
           op, kOptionsBytes, options.size);
  KP_CHECK(HasChecksum(options.bytes, options.size),
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
