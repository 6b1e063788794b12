// A matrix's kept weights from packed bytes of either version, for the kernels; internal to the op.
#ifndef KERAS_PRUNE_TF_ENTRIES_H_
#define KERAS_PRUNE_TF_ENTRIES_H_

#include "../tensor_format.h"

namespace keras_prune {

// Version 1 is read as it is, version 2 is decoded to such entries. The packed bytes must stay.
class Entries {
 public:
  Entries(const uint8_t* data, size_t num_bytes)
      : data_(data), num_bytes_(num_bytes), is_coded_(FormatVersion(data, num_bytes) == 2) {}

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

  // Once the sizes are as expected: what the kernels make layouts of, in this much of the caller's memory.
  uint64_t ScratchBytes() const { return is_coded_ ? EntriesBytes(tensor_) : 0; }
  Status Unpack(uint8_t* scratch, PackedView* view) const {
    if (is_coded_) return UnpackEntries(tensor_, scratch, view);
    *view = view_;
    return Status::kOk;
  }

 private:
  const uint8_t* data_;
  size_t num_bytes_;
  bool is_coded_;
  TensorView tensor_;
  PackedView view_;
};

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_ENTRIES_H_
