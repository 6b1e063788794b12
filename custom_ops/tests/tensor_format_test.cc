// Version 2 on the golden files that the Python tests read too, and on everything that it must refuse.
#include "../tensor_format.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "../bytes.h"
#include "packing.h"
#include "testing.h"

#ifndef KERAS_PRUNE_GOLDEN
#error "define KERAS_PRUNE_GOLDEN as the path of tests/golden"
#endif

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMostWeights = 1 << 17;  // that a damaged header may make this test allocate

Bytes ReadFile(const std::string& name) {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/" + name, std::ios::binary);
  EXPECT(file.good(), "cannot read %s", name.c_str());
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

Status CheckEntries(const TensorView& view, const Bytes& dense) {
  Bytes memory(static_cast<size_t>(EntriesBytes(view)));
  PackedView entries;
  const Status status = UnpackEntries(view, memory.data(), &entries);
  if (status != Status::kOk) return status;
  std::vector<float> got(size_t{view.rows} * view.cols);
  VisitKept(entries, [&](uint32_t row, uint32_t col, uint32_t code, uint32_t) {
    got[size_t{row} * view.cols + col] = CodebookValue(entries, code);
  });
  EXPECT(std::memcmp(got.data(), dense.data(), dense.size()) == 0, "entries are not the values");
  return status;
}

// Everything that the library makes of a buffer, on copies of exactly its size, so that the address sanitizer sees
// every access past an end.
Status Decode(const Bytes& packed, ElementType as, Bytes* dense) {
  auto* copy = static_cast<uint8_t*>(std::malloc(packed.size() + (packed.empty() ? 1 : 0)));
  if (!packed.empty()) std::memcpy(copy, packed.data(), packed.size());
  TensorView view;
  Status status = ParseTensor(copy, packed.size(), &view);
  if (status != Status::kOk) EXPECT(view.rows == 0 && view.table == nullptr, "a refused buffer gave a view");
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  if (status == Status::kOk && weights <= kMostWeights) {
    const bool widen = as == ElementType::kFloat32 && view.element == ElementType::kFloat16;
    const ElementType type = widen ? as : view.element;
    dense->assign(static_cast<size_t>(weights) * ElementBytes(type), 0xA5);
    status = UnpackTensor(view, type, dense->data());
    if (view.values == Values::kCodebook) {
      const Status other = CheckEntries(view, *dense);
      EXPECT((status == Status::kOk) == (other == Status::kOk), "%s / %s", StatusMessage(status), StatusMessage(other));
    }
  }
  std::free(copy);
  return status;
}

Status Decode(const Bytes& packed) {
  Bytes dense;
  return Decode(packed, ElementType::kInt8, &dense);
}

struct GoldenCase {
  std::string name;
  uint32_t positions, values, element, rows, cols, block_rows, block_cols, num_units, num_values, escape, fill, size;
};

std::vector<GoldenCase> Manifest() {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/tensor_manifest.txt");
  std::vector<GoldenCase> cases;
  GoldenCase c;
  while (file >> c.name >> c.positions >> c.values >> c.element >> c.rows >> c.cols >> c.block_rows >> c.block_cols >>
         c.num_units >> c.num_values >> c.escape >> c.fill >> c.size) {
    cases.push_back(c);
  }
  return cases;
}

void ExpectHeader(const GoldenCase& c, const TensorView& v) {
  EXPECT(static_cast<uint32_t>(v.positions) == c.positions && static_cast<uint32_t>(v.values) == c.values &&
             static_cast<uint32_t>(v.element) == c.element && v.rows == c.rows && v.cols == c.cols,
         "%s", c.name.c_str());
  EXPECT(v.block_rows == c.block_rows && v.block_cols == c.block_cols && v.num_units == c.num_units &&
             v.symbol_stream.num_symbols == c.num_values && v.escape == c.escape && v.fill == c.fill &&
             v.codebook_size == c.size,
         "%s", c.name.c_str());
}

TEST(GoldenFiles) {
  const std::vector<GoldenCase> cases = Manifest();
  EXPECT(cases.size() >= 30, "only %zu cases in %s", cases.size(), KERAS_PRUNE_GOLDEN);
  for (const GoldenCase& c : cases) {
    const Bytes packed = ReadFile(c.name + ".packed"), want = ReadFile(c.name + ".dense");
    TensorView view;
    const Status status = ParseTensor(packed.data(), packed.size(), &view);
    EXPECT(status == Status::kOk, "%s: %s", c.name.c_str(), StatusMessage(status));
    ExpectHeader(c, view);
    Bytes got;
    EXPECT(Decode(packed, view.element, &got) == Status::kOk && got == want, "%s", c.name.c_str());
  }
}

float HalfAsFloat(uint32_t half) {
  const double magnitude = (half & 0x7C00) != 0
                               ? std::ldexp(1024 + (half & 0x3FF), static_cast<int>(half >> 10 & 31) - 25)
                               : std::ldexp(half & 0x3FF, -24);
  return static_cast<float>((half & 0x8000) != 0 ? -magnitude : magnitude);
}

// Every float16, as float32 and as it is stored.
TEST(Float16IsWidenedExactly) {
  constexpr uint32_t kCount = 1 << 16;
  Bytes packed(36), low;
  const uint8_t head[] = {'K', 'P', 'R', 'I', 2, 0, 2, 1};
  std::memcpy(packed.data(), head, sizeof head);
  for (const auto& [at, value] : {std::pair<int, uint32_t>{8, 256}, {12, 256}, {16, 0x00010001}, {20, kCount}}) {
    Put32(value, packed.data() + at);
  }
  packed.insert(packed.end(), {0, 8, 0, 0, 1, 0});
  for (uint32_t half = 0; half < kCount; ++half) {
    packed.push_back(static_cast<uint8_t>(half >> 8));
    low.push_back(static_cast<uint8_t>(half));
  }
  packed.insert(packed.end(), low.begin(), low.end());
  Put32(static_cast<uint32_t>(packed.size()), packed.data() + 28);
  Seal(&packed);
  Bytes halves, floats;
  EXPECT(Decode(packed, ElementType::kFloat16, &halves) == Status::kOk && halves.size() == 2 * kCount, "float16");
  EXPECT(Decode(packed, ElementType::kFloat32, &floats) == Status::kOk && floats.size() == 4 * kCount, "float32");
  for (uint32_t half = 0; half < kCount; ++half) {
    const uint32_t bits = Load32(floats.data() + 4 * half);
    EXPECT(Load16(halves.data() + 2 * half) == half, "%x", half);
    if ((half & 0x7C00) == 0x7C00) {  // infinity and NaN keep sign and payload
      EXPECT(bits == ((half & 0x8000) << 16 | 0x7F800000u | (half & 0x3FF) << 13), "%x: %x", half, bits);
    } else {
      EXPECT(FloatFromBits(bits) == HalfAsFloat(half) && bits >> 31 == half >> 15, "%x: %x", half, bits);
    }
  }
}

TEST(OtherTypesAreRefused) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes packed = ReadFile(c.name + ".packed");
    TensorView view;
    if (ParseTensor(packed.data(), packed.size(), &view) != Status::kOk) continue;
    for (uint32_t as = 0; as < 4; ++as) {
      if (as == c.element || (as == 0 && c.element == 1)) continue;
      EXPECT(UnpackTensor(view, static_cast<ElementType>(as), nullptr) == Status::kBadSizes, "%s", c.name.c_str());
    }
    PackedView entries;
    if (c.values != 0) EXPECT(UnpackEntries(view, nullptr, &entries) == Status::kBadSizes, "%s", c.name.c_str());
  }
}

TEST(EveryBrokenRuleIsRefused) {
  std::ifstream file(std::string(KERAS_PRUNE_GOLDEN) + "/tensor_refused.txt");
  std::string name, hex;
  int cases = 0;
  for (; file >> name >> hex; ++cases) {
    Bytes packed;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      packed.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
    }
    const Status status = Decode(packed);
    EXPECT(status != Status::kOk && status != Status::kBadChecksum, "%s: %s", name.c_str(), StatusMessage(status));
  }
  EXPECT(cases >= 60, "only %d cases", cases);
}

TEST(EveryTruncationAndEveryFlipIsRefused) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes good = ReadFile(c.name + ".packed");
    Bytes packed = good;
    packed.push_back(0);
    EXPECT(Decode(packed) == Status::kBadSizes, "%s with a byte too much", c.name.c_str());
    packed.pop_back();
    for (size_t bit = 0; bit < 8 * packed.size(); ++bit) {
      packed[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      EXPECT(Decode(packed) != Status::kOk, "%s bit %zu", c.name.c_str(), bit);
      packed[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    }
    while (!packed.empty()) {
      packed.pop_back();
      EXPECT(Decode(packed) == Status::kTruncated, "%s at %zu", c.name.c_str(), packed.size());
    }
  }
}

// Hostile bytes with a right checksum: whatever they say, nothing outside the buffers is touched.
TEST(SealedDamageIsNoCrash) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes good = ReadFile(c.name + ".packed");
    const size_t step = 1 + good.size() / 100;
    for (size_t at = 4; at < good.size(); at += at < 80 ? 1 : step) {
      for (int value : {0, 1, 0x7F, 0x80, 0xFF, good[at] ^ 1, good[at] ^ 0x10}) {
        Bytes packed = good;
        packed[at] = static_cast<uint8_t>(value);
        Seal(&packed);
        Decode(packed);
      }
    }
  }
}

TEST(UnalignedBuffers) {
  for (const GoldenCase& c : Manifest()) {
    const Bytes packed = ReadFile(c.name + ".packed"), want = ReadFile(c.name + ".dense");
    Bytes moved(1), got(want.size());
    moved.insert(moved.end(), packed.begin(), packed.end());
    TensorView view;
    EXPECT(ParseTensor(moved.data() + 1, packed.size(), &view) == Status::kOk &&
               UnpackTensor(view, view.element, got.data()) == Status::kOk && got == want,
           "%s", c.name.c_str());
  }
}

TEST(VersionsAreTold) {
  const Bytes one = ReadFile("tiny.packed"), two = ReadFile(Manifest()[0].name + ".packed");
  EXPECT(FormatVersion(one.data(), one.size()) == 1 && FormatVersion(two.data(), two.size()) == 2, "golden");
  EXPECT(FormatVersion(one.data(), 4) == 0 && FormatVersion(nullptr, 0) == 0, "short");
  TensorView view;
  PackedView packed;
  EXPECT(ParseTensor(one.data(), one.size(), &view) == Status::kBadVersion, "1 read as 2");
  EXPECT(ParsePacked(two.data(), two.size(), &packed) == Status::kBadVersion, "2 read as 1");
}

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
