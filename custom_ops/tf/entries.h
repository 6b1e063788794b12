// A matrix's kept weights from packed bytes of either version, for the kernels; internal to the op.
#ifndef KERAS_PRUNE_TF_ENTRIES_H_
#define KERAS_PRUNE_TF_ENTRIES_H_

#include <stdlib.h>

#include "../tensor_format.h"

namespace keras_prune {

// Owns what version 2 is decoded to; version 1 is read as it is. The packed bytes must stay.
class Entries {
 public:
  Entries(const uint8_t* data, size_t num_bytes)
      : data_(data), num_bytes_(num_bytes), is_coded_(FormatVersion(data, num_bytes) == 2) {}
  ~Entries() { free(memory_); }
  Entries(const Entries&) = delete;
  Entries& operator=(const Entries&) = delete;

  // Whether few bytes may stand for many weights: then the caller must know both sizes before it spends memory.
  bool is_coded() const { return is_coded_; }

  // Checks the bytes, of version 2 without decoding them. What is wrong and what to do, or null.
  const char* Parse() {
    const Status status = is_coded_ ? ParseTensor(data_, num_bytes_, &tensor_) : ParsePacked(data_, num_bytes_, &view_);
    if (status != Status::kOk) return StatusMessage(status);
    if (is_coded_ && tensor_.values != Values::kCodebook) {
      return "packed weights: expected values of a codebook, got another kind; pack the layer with a Codebook";
    }
    return nullptr;
  }

  // After Parse.
  uint32_t rows() const { return is_coded_ ? tensor_.rows : view_.rows; }
  uint32_t cols() const { return is_coded_ ? tensor_.cols : view_.cols; }

  // Once the sizes are as expected: what the kernels make layouts of.
  Status Unpack() {
    if (!is_coded_) return Status::kOk;
    const uint64_t num_bytes = EntriesBytes(tensor_);
    if (num_bytes >= SIZE_MAX) return Status::kOutOfMemory;
    memory_ = static_cast<uint8_t*>(malloc(static_cast<size_t>(num_bytes) + 1));
    return memory_ != nullptr ? UnpackEntries(tensor_, memory_, &view_) : Status::kOutOfMemory;
  }
  const PackedView& view() const { return view_; }

 private:
  const uint8_t* data_;
  size_t num_bytes_;
  bool is_coded_;
  TensorView tensor_;
  PackedView view_;
  uint8_t* memory_ = nullptr;
};

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_ENTRIES_H_
