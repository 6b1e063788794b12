// Memory for the time in which a layout is made.
#ifndef KERAS_PRUNE_SCRATCH_H_
#define KERAS_PRUNE_SCRATCH_H_

#include <stdlib.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace keras_prune {

// Owns it; `data` is null where there is no memory. Large pieces are pages of the system, which go back to it at once:
// glibc's malloc keeps up to 64 MB of freed memory for later, which AlexNet's dense layers left 3 MB of.
class Scratch {
 public:
  explicit Scratch(uint64_t num_bytes) : size_(static_cast<size_t>(num_bytes)) {
    if (num_bytes > PTRDIFF_MAX) return;
    if (size_ < kFewestMapped) {
      data_ = static_cast<uint8_t*>(malloc(size_ + 1));
      return;
    }
    void* pages = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages != MAP_FAILED) data_ = static_cast<uint8_t*>(pages);
  }
  ~Scratch() {
    if (size_ < kFewestMapped) {
      free(data_);
    } else if (data_ != nullptr) {
      munmap(data_, size_);
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  uint8_t* data() const { return data_; }

 private:
  static constexpr size_t kFewestMapped = 64 << 10;
  size_t size_;
  uint8_t* data_ = nullptr;
};

}  // namespace keras_prune

#endif  // KERAS_PRUNE_SCRATCH_H_
