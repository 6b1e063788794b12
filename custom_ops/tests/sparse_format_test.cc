// The decoder on the golden files that the Python tests read too, and on everything that it must refuse.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../sparse_format.h"
#include "packing.h"
#include "testing.h"

#ifndef KERAS_PRUNE_GOLDEN
#error "define KERAS_PRUNE_GOLDEN as the path of tests/golden"
#endif

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace
using Bytes = std::vector<uint8_t>;

Bytes ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT(file.good(), "cannot read %s", path.c_str());
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// On a copy of exactly this size, so that the address sanitizer sees every read past the end.
Status Parse(const Bytes& packed) {
  uint8_t* copy = static_cast<uint8_t*>(std::malloc(packed.size() + (packed.empty() ? 1 : 0)));
  if (!packed.empty()) std::memcpy(copy, packed.data(), packed.size());
  PackedView view;
  const Status status = ParsePacked(copy, packed.size(), &view);
  if (status == Status::kOk) {
    uint32_t kept = 0;
    VisitKept(view,
              [&](uint32_t row, uint32_t col, uint32_t, uint32_t) { kept += row < view.rows && col < view.cols; });
    EXPECT(kept == view.num_kept, "visited %u of %u", kept, view.num_kept);
  } else {
    EXPECT(view.gaps == nullptr && view.rows == 0, "a refused buffer gave a view");
  }
  std::free(copy);
  return status;
}

Bytes Golden(const std::string& name) { return ReadFile(std::string(KERAS_PRUNE_GOLDEN) + "/" + name); }

std::vector<float> ToDense(const PackedView& view) {
  std::vector<float> dense(size_t{view.rows} * view.cols);
  VisitKept(view, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    dense[size_t{row} * view.cols + col] = CodebookValue(view, code);
  });
  return dense;
}

struct GoldenCase {
  std::string name;
  uint32_t rows, cols, gap_bits, code_bits, num_entries, num_kept;
};

std::vector<GoldenCase> Manifest() {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/manifest.txt");
  std::vector<GoldenCase> cases;
  GoldenCase c;
  while (file >> c.name >> c.rows >> c.cols >> c.gap_bits >> c.code_bits >> c.num_entries >> c.num_kept) {
    cases.push_back(c);
  }
  return cases;
}

TEST(GoldenFiles) {
  const std::vector<GoldenCase> cases = Manifest();
  EXPECT(cases.size() >= 12, "only %zu cases in %s", cases.size(), KERAS_PRUNE_GOLDEN);
  for (const GoldenCase& c : cases) {
    const Bytes packed = Golden(c.name + ".packed"), dense = Golden(c.name + ".dense");
    PackedView view;
    const Status status = ParsePacked(packed.data(), packed.size(), &view);
    EXPECT(status == Status::kOk, "%s: %s", c.name.c_str(), StatusMessage(status));
    if (status != Status::kOk) continue;
    EXPECT(view.rows == c.rows && view.cols == c.cols && view.gap_bits == c.gap_bits && view.code_bits == c.code_bits &&
               view.num_entries == c.num_entries && view.num_kept == c.num_kept,
           "%s", c.name.c_str());
    const std::vector<float> got = ToDense(view);
    EXPECT(got.size() * 4 == dense.size() && std::memcmp(got.data(), dense.data(), dense.size()) == 0, "%s",
           c.name.c_str());
  }
}

TEST(TheTestsEncoderWritesTheGoldenBytes) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes packed = Golden(c.name + ".packed");
    PackedView view;
    if (ParsePacked(packed.data(), packed.size(), &view) != Status::kOk) continue;
    Layer layer{view.rows, view.cols, Bytes(size_t{view.rows} * view.cols), {0.0f}};
    VisitKept(view, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
      layer.codes[size_t{row} * view.cols + col] = static_cast<uint8_t>(code);
    });
    for (uint32_t code = 1; code < view.codebook_size; ++code) layer.codebook.push_back(CodebookValue(view, code));
    EXPECT(Pack(layer, view.gap_bits) == packed, "%s", c.name.c_str());
  }
}

// Headers alone, too large for the files of dense values.
TEST(GoldenLimits) {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/limits.txt");
  std::string name, verdict;
  int cases = 0;
  for (; file >> name >> verdict; ++cases) {
    const Status expected = verdict == "allowed" ? Status::kOk : Status::kBadSizes;
    const Status status = Parse(Golden(name + ".packed"));
    EXPECT(status == expected, "%s: %s", name.c_str(), StatusMessage(status));
  }
  EXPECT(cases == 4, "%d", cases);
}

TEST(UnalignedBuffers) {
  const Bytes packed = Golden("one_row.packed");
  for (size_t shift = 1; shift < 8; ++shift) {
    Bytes moved(shift);
    moved.insert(moved.end(), packed.begin(), packed.end());
    PackedView view;
    EXPECT(ParsePacked(moved.data() + shift, packed.size(), &view) == Status::kOk, "shift %zu", shift);
  }
}

TEST(EveryTruncationIsRefused) {
  for (const GoldenCase& c : Manifest()) {
    Bytes packed = Golden(c.name + ".packed");
    packed.push_back(0);
    EXPECT(Parse(packed) == Status::kBadSizes, "%s with a byte too much", c.name.c_str());
    packed.pop_back();
    while (!packed.empty()) {
      packed.pop_back();
      EXPECT(Parse(packed) == Status::kTruncated, "%s at %zu", c.name.c_str(), packed.size());
    }
  }
  PackedView view;
  EXPECT(ParsePacked(nullptr, 0, &view) == Status::kTruncated, "null");
}

TEST(EveryBitFlipIsRefused) {
  for (const GoldenCase& c : Manifest()) {
    Bytes packed = Golden(c.name + ".packed");
    for (size_t bit = 0; bit < 8 * packed.size(); ++bit) {
      packed[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      EXPECT(Parse(packed) != Status::kOk, "%s bit %zu", c.name.c_str(), bit);
      packed[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    }
  }
}

// Hostile bytes with a right checksum: whatever they say, nothing outside the buffer is read.
TEST(SealedDamageIsNoCrash) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes good = Golden(c.name + ".packed");
    for (size_t at = 4; at < good.size(); ++at) {
      for (int value : {0, 1, 0x7F, 0x80, 0xFF, good[at] ^ 1, good[at] ^ 0x10}) {
        Bytes packed = good;
        packed[at] = static_cast<uint8_t>(value);
        Seal(&packed);
        Parse(packed);
      }
    }
  }
}

void ExpectRefused(const char* what, size_t at, const Bytes& value, Status expected) {
  Bytes packed = Golden("tiny.packed");
  for (size_t i = 0; i < value.size(); ++i) packed[at + i] = value[i];
  Seal(&packed);
  const Status status = Parse(packed);
  EXPECT(status == expected, "%s: %s", what, StatusMessage(status));
}

TEST(EveryRuleIsChecked) {
  ExpectRefused("magic", 0, {'X'}, Status::kBadMagic);
  ExpectRefused("version", 4, {2}, Status::kBadVersion);
  ExpectRefused("gap bits 3", 5, {3}, Status::kBadSizes);
  ExpectRefused("gap bits 9", 5, {9}, Status::kBadSizes);
  ExpectRefused("code bits 1", 6, {1}, Status::kBadSizes);
  ExpectRefused("code bits 9", 6, {9}, Status::kBadSizes);
  ExpectRefused("reserved", 7, {1}, Status::kBadSizes);
  ExpectRefused("no rows", 8, {0, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("no columns", 12, {0, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("2^32 weights", 8, {0, 0, 1, 0, 0, 0, 1, 0}, Status::kBadSizes);
  ExpectRefused("entries past the weights", 16, {7, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("kept past the entries", 20, {3, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("kept below the codes", 20, {1, 0, 0, 0}, Status::kBadEntries);
  ExpectRefused("no codebook", 24, {0, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("codebook past the code bits", 24, {5, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("another length", 28, {45, 0, 0, 0}, Status::kBadSizes);
  ExpectRefused("NaN", 36, {0, 0, 0xC0, 0x7F}, Status::kBadCodebook);
  ExpectRefused("infinity", 40, {0, 0, 0x80, 0xFF}, Status::kBadCodebook);
  ExpectRefused("past the end", 44, {0x41}, Status::kBadEntries);
  ExpectRefused("code past the codebook", 45, {0x0D}, Status::kBadEntries);
  ExpectRefused("padding", 45, {0x19}, Status::kBadEntries);
}

TEST(FillersOutOfPlace) {
  Bytes small_gap = Golden("gap_one_past.packed");
  small_gap[44] = 0x0E;
  Seal(&small_gap);
  EXPECT(Parse(small_gap) == Status::kBadEntries, "a filler with a small gap");
  Bytes at_the_end = Golden("tiny.packed");
  at_the_end[8] = 20;     // rows
  at_the_end[20] = 1;     // kept
  at_the_end[44] = 0xF1;  // gaps 1 and 15
  at_the_end[45] = 0x01;  // codes 1 and 0
  Seal(&at_the_end);
  EXPECT(Parse(at_the_end) == Status::kBadEntries, "a filler at the end");
}

TEST(ChecksumOfKnownText) {
  const char text[] = "123456789";  // the check value of CRC-32 in every catalogue
  const auto* bytes = reinterpret_cast<const uint8_t*>(text);
  EXPECT(Crc32(0, bytes, 9) == 0xCBF43926u, "whole");
  for (size_t cut = 0; cut <= 9; ++cut) {
    EXPECT(Crc32(Crc32(0, bytes, cut), bytes + cut, 9 - cut) == 0xCBF43926u, "cut at %zu", cut);
  }
}

TEST(MessagesSayWhatToDo) {
  for (int status = 0; status <= static_cast<int>(Status::kOutOfMemory); ++status) {
    EXPECT(StatusMessage(static_cast<Status>(status)) != nullptr, "%d", status);
  }
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
