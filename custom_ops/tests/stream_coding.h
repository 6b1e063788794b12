// Encoders of symbol streams that follow docs/format.md, written apart from the Python ones.
#ifndef KERAS_PRUNE_TESTS_STREAM_CODING_H_
#define KERAS_PRUNE_TESTS_STREAM_CODING_H_

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "packing.h"

namespace keras_prune_test {

using Bytes = std::vector<uint8_t>;

// Below `values`; small ones are more frequent.
inline Bytes RandomSymbols(size_t size, uint32_t values, uint32_t seed = 1) {
  std::mt19937 random(seed);
  Bytes symbols(size);
  for (uint8_t& symbol : symbols) symbol = static_cast<uint8_t>(std::min(random() % values, random() % values));
  return symbols;
}

inline void Append32(uint32_t value, Bytes* out) {
  out->resize(out->size() + 4);
  Put32(value, out->data() + out->size() - 4);
}

inline Bytes EncodeFixed(const Bytes& symbols, int bits) {
  Bytes out = {0, static_cast<uint8_t>(bits)};
  Append32(static_cast<uint32_t>(symbols.size()), &out);
  if (bits != 0) AppendBits(symbols, bits, &out);
  return out;
}

// At least 1 for each symbol that occurs; what is missing or too much is the most frequent one's.
inline std::vector<uint32_t> Frequencies(const Bytes& symbols) {
  std::vector<uint64_t> counts(256);
  for (uint8_t symbol : symbols) ++counts[symbol];
  std::vector<uint32_t> frequencies(256);
  int64_t left = 1 << 14;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] != 0)
      frequencies[s] = std::max<uint32_t>(1, static_cast<uint32_t>((counts[s] << 14) / symbols.size()));
    left -= frequencies[s];
  }
  *std::max_element(frequencies.begin(), frequencies.end()) += static_cast<uint32_t>(left);
  while (frequencies.back() == 0) frequencies.pop_back();
  return frequencies;
}

inline Bytes EncodeRans(const Bytes& symbols, int lanes_log2) {
  const std::vector<uint32_t> frequencies = Frequencies(symbols);
  std::vector<uint32_t> begin(frequencies.size() + 1), states(size_t{1} << lanes_log2, 1u << 16);
  for (size_t s = 0; s < frequencies.size(); ++s) begin[s + 1] = begin[s] + frequencies[s];
  std::vector<uint16_t> words;
  for (size_t i = symbols.size(); i-- != 0;) {
    uint32_t& x = states[i % states.size()];
    const uint32_t f = frequencies[symbols[i]];
    if (x >= uint64_t{f} << 18) {
      words.push_back(static_cast<uint16_t>(x));
      x >>= 16;
    }
    x = (x / f << 14) + x % f + begin[symbols[i]];
  }
  Bytes out = {1, static_cast<uint8_t>(lanes_log2)};
  Append32(static_cast<uint32_t>(symbols.size()), &out);
  out.push_back(static_cast<uint8_t>(frequencies.size() - 1));
  for (uint32_t f : frequencies) {
    for (; f >= 128; f >>= 7) out.push_back(static_cast<uint8_t>(f | 128));
    out.push_back(static_cast<uint8_t>(f));
  }
  Append32(static_cast<uint32_t>(words.size()), &out);
  for (uint32_t state : states) Append32(state, &out);
  for (size_t i = words.size(); i-- != 0;) {
    out.push_back(static_cast<uint8_t>(words[i]));
    out.push_back(static_cast<uint8_t>(words[i] >> 8));
  }
  return out;
}

}  // namespace keras_prune_test

#endif  // KERAS_PRUNE_TESTS_STREAM_CODING_H_
