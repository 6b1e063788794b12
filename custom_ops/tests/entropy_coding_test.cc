// Symbol streams against an encoder that follows docs/format.md, written apart from the Python one.
#include "../entropy_coding.h"

#include <cstdlib>

#include "stream_coding.h"
#include "testing.h"

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

constexpr size_t kSizes[] = {1, 2, 7, 8, 63, 64, 65, 127, 128, 1000, 1024, 1025, 5000};

// On a copy of exactly this size, so that the address sanitizer sees every read past the end.
Status Decode(const Bytes& stream, Bytes* symbols) {
  auto* copy = static_cast<uint8_t*>(std::malloc(stream.size() + (stream.empty() ? 1 : 0)));
  std::copy(stream.begin(), stream.end(), copy);
  SymbolStream parsed;
  Status status = ParseStream(copy, stream.size(), &parsed);
  if (status == Status::kOk && parsed.num_bytes != stream.size()) status = Status::kBadSizes;
  symbols->clear();
  if (status == Status::kOk && parsed.num_symbols < 100000) {
    SymbolReader reader(parsed);
    while (reader.left() != 0 && status == Status::kOk) {
      uint8_t chunk[1024];
      const uint32_t count = reader.left() < sizeof chunk ? reader.left() : sizeof chunk;
      status = reader.Read(count, chunk);
      symbols->insert(symbols->end(), chunk, chunk + count);
    }
    if (status == Status::kOk) status = reader.Finish();
  }
  std::free(copy);
  return status;
}

void ExpectSame(const Bytes& stream, const Bytes& want, const char* what) {
  Bytes got;
  const Status status = Decode(stream, &got);
  EXPECT(status == Status::kOk && got == want, "%s, %zu symbols: %s", what, want.size(), StatusMessage(status));
}

TEST(FixedWidthsComeBack) {
  for (int bits = 0; bits <= 8; ++bits) {
    for (size_t size : kSizes)
      ExpectSame(EncodeFixed(RandomSymbols(size, 1u << bits), bits), RandomSymbols(size, 1u << bits), "fixed");
  }
  ExpectSame(EncodeFixed({}, 0), {}, "nothing");
}

TEST(LanesComeBack) {
  for (int lanes = 0; lanes <= 6; ++lanes) {
    for (size_t size : kSizes) {
      for (uint32_t values : {1u, 2u, 3u, 16u, 256u}) {
        const Bytes symbols = RandomSymbols(size, values);
        ExpectSame(EncodeRans(symbols, lanes), symbols, "rANS");
      }
    }
  }
}

// A symbol of frequency 1 among 2^14 - 1 others: the largest numbers that the arithmetic meets.
TEST(RareSymbols) {
  for (int lanes = 0; lanes <= 6; ++lanes) {
    Bytes symbols(20000, 0);
    for (size_t at : {size_t{0}, size_t{1}, size_t{777}, symbols.size() - 1}) symbols[at] = 255;
    ExpectSame(EncodeRans(symbols, lanes), symbols, "rare");
  }
}

TEST(EveryTruncationIsRefused) {
  Bytes got;
  for (const Bytes& whole : {EncodeFixed(RandomSymbols(100, 8), 3), EncodeRans(RandomSymbols(100, 16), 0),
                             EncodeRans(RandomSymbols(300, 16), 2)}) {
    for (Bytes stream = whole; !stream.empty();) {
      stream.pop_back();
      EXPECT(Decode(stream, &got) != Status::kOk, "%zu of %zu", stream.size(), whole.size());
    }
  }
}

// Without a checksum flips may give other symbols, but nothing outside the stream is read.
TEST(DamageIsNoCrash) {
  Bytes got;
  for (const Bytes& good : {EncodeFixed(RandomSymbols(100, 8), 3), EncodeRans(RandomSymbols(100, 16), 0),
                            EncodeRans(RandomSymbols(300, 16), 2), EncodeRans(RandomSymbols(600, 200), 6)}) {
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      Bytes stream = good;
      stream[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      Decode(stream, &got);
    }
  }
}

TEST(WordsAndStatesAreChecked) {
  const Bytes symbols = RandomSymbols(1000, 16);
  const Bytes good = EncodeRans(symbols, 0);
  Bytes got, stream = good;
  stream.push_back(0);
  EXPECT(Decode(stream, &got) == Status::kBadSizes, "a byte more");
  int refused = 0;
  for (size_t bit = 0; bit < 16; ++bit) {  // of the last word
    stream = good;
    stream[stream.size() - 1 - bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    refused += Decode(stream, &got) != Status::kOk;
  }
  EXPECT(refused == 16, "%d", refused);
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
