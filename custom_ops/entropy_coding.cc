// Decodes symbol streams. Lengths are checked before bytes are read, so hostile bytes end in a status.
#include "entropy_coding.h"

#include "bytes.h"

namespace keras_prune {
namespace {

constexpr size_t kStreamHeadBytes = 6;
constexpr uint32_t kFrequencySum = 1u << kFrequencyBits;
constexpr uint8_t kMaxLanesLog2 = 6;
static_assert(1u << kMaxLanesLog2 == kMaxLanes, "lanes");

// Reads one LEB128 number in its shortest form; false where it is not one, or larger than any frequency's three bytes.
bool ReadLeb128(const uint8_t** at, const uint8_t* end, uint32_t* value) {
  *value = 0;
  for (int k = 0; k < 3 && *at < end; ++k) {
    const uint8_t byte = *(*at)++;
    *value |= (byte & 0x7Fu) << (7 * k);
    if ((byte & 0x80) == 0) return byte != 0 || k == 0;
  }
  return false;
}

Status ParseFixed(const uint8_t* data, size_t num_bytes, SymbolStream* stream) {
  stream->bits = data[1];
  if (stream->bits > 8) return Status::kBadStream;
  const uint64_t payload_bytes = StreamBytes(stream->num_symbols, stream->bits);
  if (payload_bytes > num_bytes - kStreamHeadBytes) return Status::kBadStream;
  stream->payload = data + kStreamHeadBytes;
  stream->num_bytes = kStreamHeadBytes + static_cast<size_t>(payload_bytes);
  return PaddingIsZero(stream->payload, stream->num_symbols, stream->bits) ? Status::kOk : Status::kBadStream;
}

// Checks the table of frequencies and moves past it.
bool ParseFrequencies(const uint8_t** at, const uint8_t* end, SymbolStream* stream) {
  if (*at == end) return false;
  stream->last = *(*at)++;
  stream->frequencies = *at;
  uint32_t sum = 0, frequency = 0;
  for (uint32_t symbol = 0; symbol <= stream->last; ++symbol) {
    if (!ReadLeb128(at, end, &frequency)) return false;
    sum += frequency;  // at most 256 * 2^21
  }
  return sum == kFrequencySum && frequency != 0;
}

Status ParseRans(const uint8_t* data, size_t num_bytes, SymbolStream* stream) {
  const uint8_t *at = data + kStreamHeadBytes, *end = data + num_bytes;
  stream->lanes_log2 = data[1];
  if (stream->lanes_log2 > kMaxLanesLog2 || !ParseFrequencies(&at, end, stream)) return Status::kBadStream;
  const uint32_t lanes = 1u << stream->lanes_log2;
  if (static_cast<size_t>(end - at) < 4 + 4 * size_t{lanes}) return Status::kBadStream;
  stream->num_words = Load32(at);
  stream->states = at + 4;
  stream->payload = stream->states + 4 * lanes;
  // A symbol takes one word at most.
  if (stream->num_words > stream->num_symbols || stream->num_words > static_cast<size_t>(end - stream->payload) / 2) {
    return Status::kBadStream;
  }
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    if (Load32(stream->states + 4 * lane) < kSmallestState) return Status::kBadStream;
  }
  stream->num_bytes = static_cast<size_t>(stream->payload - data) + 2 * size_t{stream->num_words};
  return Status::kOk;
}

}  // namespace

Status ParseStream(const uint8_t* data, size_t num_bytes, SymbolStream* stream) {
  *stream = SymbolStream();
  if (num_bytes < kStreamHeadBytes || data[0] > 1) return Status::kBadStream;
  stream->coder = static_cast<Coder>(data[0]);
  stream->num_symbols = Load32(data + 2);
  if (stream->num_symbols == 0 && (data[0] != 0 || data[1] != 0)) return Status::kBadStream;
  return stream->coder == Coder::kRans ? ParseRans(data, num_bytes, stream) : ParseFixed(data, num_bytes, stream);
}

SymbolReader::SymbolReader(const SymbolStream& stream)
    : stream_(stream), left_(stream.num_symbols), next_(stream.payload) {
  const bool rans = stream.coder == Coder::kRans;
  end_ =
      next_ + (rans ? 2 * size_t{stream.num_words} : static_cast<size_t>(StreamBytes(stream.num_symbols, stream.bits)));
  for (uint32_t lane = 0; lane < kMaxLanes; ++lane) {
    states_[lane] = rans && lane < 1u << stream.lanes_log2 ? Load32(stream.states + 4 * lane) : kSmallestState;
  }
  if (rans) MakeTable();
}

void SymbolReader::MakeTable() {
  const uint8_t* at = stream_.frequencies;
  uint32_t begin = 0, frequency;
  for (uint32_t symbol = 0; symbol <= stream_.last; ++symbol) {
    ReadLeb128(&at, stream_.states, &frequency);
    range_of_[symbol] = {static_cast<uint16_t>(frequency), static_cast<uint16_t>(begin)};
    for (uint32_t slot = begin; slot < begin + frequency; ++slot) symbol_of_[slot] = static_cast<uint8_t>(symbol);
    begin += frequency;
  }
}

// A round is one symbol of each lane. While there is a word for every lane, a lane's step has no branch.
template <uint32_t kLanes>
Status SymbolReader::ReadRans(uint32_t count, uint8_t* symbols) {
  uint32_t states[kLanes];
  for (uint32_t lane = 0; lane < kLanes; ++lane) states[lane] = states_[lane];
  const uint8_t* next = next_;
  const uint8_t* const end = end_;
  const auto decode = [this](uint32_t x, uint8_t* symbol) {
    const uint32_t slot = x & (kFrequencySum - 1);
    *symbol = symbol_of_[slot];
    const Range range = range_of_[*symbol];
    return range.frequency * (x >> kFrequencyBits) + slot - range.begin;
  };
  for (; count >= kLanes && end - next >= static_cast<ptrdiff_t>(2 * kLanes); count -= kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      uint8_t symbol;
      const uint32_t x = decode(states[lane], &symbol);
      const uint32_t small = 0u - static_cast<uint32_t>(x < kSmallestState);  // all bits, or none
      states[lane] = x << (small & 16) | (Load16(next) & small);
      next += small & 2;
      symbols[lane] = symbol;
    }
    symbols += kLanes;
  }
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t x = decode(states[i % kLanes], symbols + i);
    if (x < kSmallestState) {
      if (next == end) return Status::kBadStream;
      x = x << 16 | Load16(next);
      next += 2;
    }
    states[i % kLanes] = x;
  }
  for (uint32_t lane = 0; lane < kLanes; ++lane) states_[lane] = states[lane];
  next_ = next;
  return Status::kOk;
}

Status SymbolReader::ReadFixed(uint32_t count, uint8_t* symbols) {
  const uint32_t bits = stream_.bits, mask = (1u << bits) - 1;
  for (uint32_t done = 0; done < count; done += 8) {
    uint64_t word = EightValues(next_, left_ - done, bits);
    const uint32_t group = count - done < 8 ? count - done : 8;
    next_ += StreamBytes(group, bits);
    for (uint32_t k = 0; k < group; ++k, word >>= bits) symbols[done + k] = static_cast<uint8_t>(word & mask);
  }
  return Status::kOk;
}

Status SymbolReader::Read(uint32_t count, uint8_t* symbols) {
  Status status = Status::kOk;
  if (stream_.coder == Coder::kFixed) {
    status = ReadFixed(count, symbols);
  } else {
    switch (stream_.lanes_log2) {
      case 0:
        status = ReadRans<1>(count, symbols);
        break;
      case 1:
        status = ReadRans<2>(count, symbols);
        break;
      case 2:
        status = ReadRans<4>(count, symbols);
        break;
      case 3:
        status = ReadRans<8>(count, symbols);
        break;
      case 4:
        status = ReadRans<16>(count, symbols);
        break;
      case 5:
        status = ReadRans<32>(count, symbols);
        break;
      default:
        status = ReadRans<64>(count, symbols);
        break;
    }
  }
  left_ -= count;
  return status;
}

Status SymbolReader::Finish() const {
  if (stream_.coder == Coder::kFixed) return left_ == 0 ? Status::kOk : Status::kBadStream;
  uint32_t changed = 0;
  for (const uint32_t state : states_) changed |= state ^ kSmallestState;
  return left_ == 0 && changed == 0 && next_ == end_ ? Status::kOk : Status::kBadStream;
}

}  // namespace keras_prune
