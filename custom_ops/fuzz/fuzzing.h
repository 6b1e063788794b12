// What the fuzz targets share: mutations that a checksum does not stop, and memory of exact sizes.
#ifndef KERAS_PRUNE_FUZZ_FUZZING_H_
#define KERAS_PRUNE_FUZZ_FUZZING_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "../sparse_format.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);  // libFuzzer's own

namespace keras_prune_fuzz {

constexpr uint64_t kMostWeights = 1 << 20;  // of a matrix that is decoded: sizes are the caller's to limit

// Stops the fuzzer: the code under test broke a promise.
#define FUZZ_EXPECT(condition)                                                      \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)

// A copy of exactly this size, so that the address sanitizer sees every access past the end.
class Exact {
 public:
  explicit Exact(size_t size) : data_(static_cast<uint8_t*>(std::malloc(size))), size_(size) {}
  Exact(const uint8_t* data, size_t size) : Exact(size) {
    if (size != 0) std::memcpy(data_, data, size);
  }
  ~Exact() { std::free(data_); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_;
  size_t size_;
};

// Numbers of both signs, and where asked for one that is not a number.
inline void FillFloats(uint8_t* memory, size_t num_bytes, bool with_nan) {
  for (size_t i = 0; i < num_bytes / sizeof(float); ++i) {
    const float value = with_nan && i == 3 ? __builtin_nanf("") : 0.01f * static_cast<float>(i * 37 % 255) - 1.27f;
    std::memcpy(memory + i * sizeof value, &value, sizeof value);
  }
}

inline void Put32(uint32_t value, uint8_t* at) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (8 * i));
}

inline uint64_t ClaimedWeights(const uint8_t* packed, size_t size) {
  return size < keras_prune::kHeaderBytes
             ? 0
             : uint64_t{keras_prune::Load32(packed + 8)} * keras_prune::Load32(packed + 12);
}

// Makes magic, version, length and checksum of packed bytes right again; now and then leaves one of them as it is.
inline void Repair(int version, uint8_t* packed, size_t size, std::minstd_rand* random) {
  if (size < keras_prune::kHeaderBytes) return;
  const auto mostly = [random] { return (*random)() % 64 != 0; };
  if (mostly()) std::memcpy(packed, "KPRI", 4);
  if (mostly() && version != 0) packed[4] = static_cast<uint8_t>(version);
  if (mostly()) Put32(static_cast<uint32_t>(size), packed + 28);
  if (mostly()) {
    Put32(0, packed + 32);
    Put32(keras_prune::Crc32(0, packed, size), packed + 32);
  }
}

inline size_t MutatePacked(int version, uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed + 1);
  size = LLVMFuzzerMutate(data, size, max_size);
  Repair(version, data, size, &random);
  return size;
}

}  // namespace keras_prune_fuzz

#endif  // KERAS_PRUNE_FUZZ_FUZZING_H_
