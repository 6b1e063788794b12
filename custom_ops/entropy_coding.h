// Symbol streams of the storage format, version 2: bytes coded with a fixed number of bits, or by rANS in lanes
// (Duda, arXiv:1311.2540). The C++ mirror of keras_prune/entropy_coding.py. docs/format.md describes every byte.
// Freestanding C++17: no heap, no exceptions, no RTTI.
#ifndef KERAS_PRUNE_ENTROPY_CODING_H_
#define KERAS_PRUNE_ENTROPY_CODING_H_

#include <cstddef>
#include <cstdint>

#include "sparse_format.h"

namespace keras_prune {

constexpr uint32_t kFrequencyBits = 14;        // of the sum of all frequencies
constexpr uint32_t kSmallestState = 1u << 16;  // of a lane, after every symbol
constexpr uint32_t kMaxLanes = 64;

enum class Coder : uint8_t { kFixed = 0, kRans = 1 };

// A stream whose head was checked; points into the caller's bytes.
struct SymbolStream {
  Coder coder = Coder::kFixed;
  uint8_t bits = 0;        // fixed: of a symbol
  uint8_t lanes_log2 = 0;  // rANS
  uint8_t last = 0;        // rANS: the largest symbol with a frequency
  uint32_t num_symbols = 0;
  uint32_t num_words = 0;                // rANS
  const uint8_t* frequencies = nullptr;  // rANS: LEB128, of symbols 0 to last
  const uint8_t* states = nullptr;       // rANS: uint32, one a lane
  const uint8_t* payload = nullptr;      // the bits, or the words
  size_t num_bytes = 0;                  // of the whole stream
};

// Checks all that costs no decoding, and finds the stream's length; `data` holds num_bytes, of which the stream may be
// the first part.
Status ParseStream(const uint8_t* data, size_t num_bytes, SymbolStream* stream);

// Decodes a stream from its first symbol to its last. 17 KB: made for the stack of a thread, not of an interrupt.
class SymbolReader {
 public:
  explicit SymbolReader(const SymbolStream& stream);

  uint32_t left() const { return left_; }

  // The next `count` symbols, at most left(): a multiple of kMaxLanes, except at the end of the stream. Refuses a
  // stream that has too few words.
  Status Read(uint32_t count, uint8_t* symbols);

  // After the last symbol: every word was read and every lane is where the encoder began; padding bits are zero.
  Status Finish() const;

 private:
  template <uint32_t kLanes>
  Status ReadRans(uint32_t count, uint8_t* symbols);
  Status ReadFixed(uint32_t count, uint8_t* symbols);
  void MakeTable();

  struct Range {
    uint16_t frequency, begin;
  };
  SymbolStream stream_;
  uint32_t left_;
  const uint8_t* next_;  // byte of the payload
  const uint8_t* end_;
  uint32_t states_[kMaxLanes];
  Range range_of_[256];
  uint8_t symbol_of_[1 << kFrequencyBits];
};

}  // namespace keras_prune

#endif  // KERAS_PRUNE_ENTROPY_CODING_H_
