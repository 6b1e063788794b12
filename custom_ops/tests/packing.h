// Random layers for tests and bench, and an encoder that follows docs/format.md, written apart from the Python one.
#ifndef KERAS_PRUNE_TESTS_PACKING_H_
#define KERAS_PRUNE_TESTS_PACKING_H_

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "../sparse_format.h"

namespace keras_prune_test {

struct Layer {
  uint32_t rows = 0, cols = 0;
  std::vector<uint8_t> codes;   // rows * cols, 0 = pruned
  std::vector<float> codebook;  // codebook[0] == 0
};

// Kept with probability `density`, evenly spread; values of both signs.
inline Layer RandomLayer(uint32_t rows, uint32_t cols, double density, uint32_t codebook_size, uint32_t seed = 1) {
  Layer layer{rows, cols, std::vector<uint8_t>(size_t{rows} * cols), std::vector<float>(codebook_size)};
  std::mt19937 random(seed);
  std::normal_distribution<float> value;
  for (uint32_t i = 1; i < codebook_size; ++i) layer.codebook[i] = value(random);
  const auto limit = static_cast<uint64_t>(density * 4294967296.0);
  for (uint8_t& code : layer.codes) {
    if (random() < limit && codebook_size > 1) code = static_cast<uint8_t>(1 + random() % (codebook_size - 1));
  }
  return layer;
}

inline std::vector<float> RandomVector(size_t size, uint32_t seed = 2) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value;
  std::vector<float> values(size);
  for (float& v : values) v = value(random);
  return values;
}

inline void AppendBits(const std::vector<uint8_t>& values, int bits, std::vector<uint8_t>* out) {
  uint32_t word = 0;
  int used = 0;
  for (uint8_t value : values) {
    word |= uint32_t{value} << used;
    for (used += bits; used >= 8; used -= 8, word >>= 8) out->push_back(static_cast<uint8_t>(word));
  }
  if (used > 0) out->push_back(static_cast<uint8_t>(word));
}

inline void Put32(uint32_t value, uint8_t* at) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> (8 * i));
}

// Makes the checksum right again after bytes were changed.
inline void Seal(std::vector<uint8_t>* packed) {
  Put32(0, packed->data() + 32);
  Put32(keras_prune::Crc32(0, packed->data(), packed->size()), packed->data() + 32);
}

inline std::vector<uint8_t> Pack(const Layer& layer, int gap_bits = 8) {
  const uint32_t largest_gap = (1u << gap_bits) - 1;
  int code_bits = 2;
  while ((1u << code_bits) < layer.codebook.size()) ++code_bits;
  std::vector<uint8_t> gaps, codes, packed(36);
  uint32_t kept = 0;
  uint64_t zeros = 0;
  for (uint8_t code : layer.codes) {
    if (code == 0) {
      ++zeros;
      continue;
    }
    for (; zeros > largest_gap; zeros -= largest_gap + 1) {
      gaps.push_back(static_cast<uint8_t>(largest_gap));
      codes.push_back(0);
    }
    gaps.push_back(static_cast<uint8_t>(zeros));
    codes.push_back(code);
    zeros = 0;
    ++kept;
  }
  for (size_t i = 1; i < layer.codebook.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &layer.codebook[i], 4);
    packed.resize(packed.size() + 4);
    Put32(bits, packed.data() + packed.size() - 4);
  }
  AppendBits(gaps, gap_bits, &packed);
  AppendBits(codes, code_bits, &packed);
  const uint8_t head[8] = {'K', 'P', 'R', 'I', 1, static_cast<uint8_t>(gap_bits), static_cast<uint8_t>(code_bits), 0};
  std::memcpy(packed.data(), head, 8);
  const uint32_t counts[6] = {layer.rows, layer.cols, static_cast<uint32_t>(gaps.size()), kept,
                              static_cast<uint32_t>(layer.codebook.size()), static_cast<uint32_t>(packed.size())};
  for (int i = 0; i < 6; ++i) Put32(counts[i], packed.data() + 8 + 4 * i);
  Seal(&packed);
  return packed;
}

}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_PACKING_H_
