// Checks version-2 buffers. Every length is known before a byte is read, so hostile bytes end in a status.
#include "tensor_format.h"

#include "bytes.h"

namespace keras_prune {
namespace {

constexpr uint8_t kVersion = 2;
constexpr uint32_t kMaxSide = INT32_MAX;

uint64_t LowBytes(const TensorView& v) {
  if (v.values != Values::kSplit) return 0;
  return v.element == ElementType::kFloat32 ? 3 : v.element == ElementType::kFloat16 ? 1 : 0;
}

bool HeaderIsValid(const uint8_t* data, const TensorView& v) {
  const uint64_t weights = uint64_t{v.rows} * v.cols;
  if (data[5] > 2 || data[6] > 2 || data[7] > 3 || weights == 0 || weights >> 32 != 0 || v.rows > kMaxSide ||
      v.cols > kMaxSide || v.block_rows < 1 || v.block_rows > v.rows || v.block_cols < 1 || v.block_cols > v.cols) {
    return false;
  }
  const uint64_t units = NumUnits(v);
  const bool is_float = v.element <= ElementType::kFloat16, is_codebook = v.values == Values::kCodebook;
  return (v.values == Values::kSplit || v.element == ElementType::kFloat32) && v.num_units <= units &&
         (v.positions != Positions::kAll || v.num_units == units) &&
         (v.escape != 0) == (v.positions == Positions::kGaps) && (v.fill == 0 || !is_float) &&
         (is_codebook ? v.codebook_size >= 1 && v.codebook_size <= 256 : v.codebook_size == 0);
}

bool NoneNegative(const uint8_t* floats, uint64_t count) {
  uint32_t signs = 0;
  for (uint64_t i = 0; i < count; ++i) signs |= Load32(floats + 4 * i);
  return signs >> 31 == 0;
}

// Reads the head's fields.
Status ParseHeader(const uint8_t* data, size_t num_bytes, TensorView* v) {
  if (data == nullptr || num_bytes < kHeaderBytes) return Status::kTruncated;
  const int version = FormatVersion(data, num_bytes);
  if (version == 0) return Status::kBadMagic;
  if (version != kVersion) return Status::kBadVersion;
  v->positions = static_cast<Positions>(data[5]);
  v->values = static_cast<Values>(data[6]);
  v->element = static_cast<ElementType>(data[7]);
  v->rows = Load32(data + 8);
  v->cols = Load32(data + 12);
  v->block_rows = Load16(data + 16);
  v->block_cols = Load16(data + 18);
  v->num_units = Load32(data + 20);
  v->escape = data[24];
  v->fill = data[25];
  v->codebook_size = Load16(data + 26);
  if (!HeaderIsValid(data, *v)) return Status::kBadSizes;
  const uint32_t expected = Load32(data + 28);
  if (expected == num_bytes) return Status::kOk;
  return num_bytes < expected ? Status::kTruncated : Status::kBadSizes;
}

Status ParsePositions(const uint8_t** at, const uint8_t* end, TensorView* v) {
  if (v->positions == Positions::kAll) return Status::kOk;
  const Status status = ParseStream(*at, static_cast<size_t>(end - *at), &v->position_stream);
  if (status != Status::kOk) return status;
  *at += v->position_stream.num_bytes;
  const uint64_t units = NumUnits(*v), symbols = v->position_stream.num_symbols;
  const bool fits = v->positions == Positions::kBitmap
                        ? symbols == (units + 7) / 8
                        : symbols >= v->num_units && symbols <= units && (v->num_units != 0 || symbols == 0);
  return fits ? Status::kOk : Status::kBadSizes;
}

Status ParseSymbols(const uint8_t** at, const uint8_t* end, TensorView* v) {
  const Status status = ParseStream(*at, static_cast<size_t>(end - *at), &v->symbol_stream);
  if (status != Status::kOk) return status;
  *at += v->symbol_stream.num_bytes;
  const uint64_t weights = uint64_t{v->rows} * v->cols, symbols = v->symbol_stream.num_symbols;
  if (symbols > weights || symbols < v->num_units) return Status::kBadSizes;
  if (v->block_rows == 1 && v->block_cols == 1 && symbols != v->num_units) return Status::kBadSizes;
  if (v->positions == Positions::kAll && symbols != weights) return Status::kBadSizes;
  return Status::kOk;
}

// Finds the sections: table, positions, symbols, low.
Status ParseSections(const uint8_t* data, size_t num_bytes, TensorView* v) {
  const uint8_t *at = data + kHeaderBytes, *end = data + num_bytes;
  const uint64_t floats = v->values == Values::kCodebook ? v->codebook_size - 1
                          : v->values == Values::kScaled ? v->rows
                                                         : 0;
  if (4 * floats > static_cast<size_t>(end - at)) return Status::kBadSizes;
  v->table = at;
  at += 4 * floats;
  if (!AllFinite(v->table, floats)) return Status::kBadCodebook;
  if (v->values == Values::kScaled && !NoneNegative(v->table, floats)) return Status::kBadCodebook;
  Status status = ParsePositions(&at, end, v);
  if (status == Status::kOk) status = ParseSymbols(&at, end, v);
  if (status != Status::kOk) return status;
  v->low = at;
  return LowBytes(*v) * v->symbol_stream.num_symbols == static_cast<size_t>(end - at) ? Status::kOk : Status::kBadSizes;
}

}  // namespace

size_t ElementBytes(ElementType type) {
  return type == ElementType::kFloat32 ? 4 : type == ElementType::kFloat16 ? 2 : 1;
}

uint64_t NumUnits(const TensorView& view) {
  const auto units = [](uint32_t side, uint32_t block) { return uint64_t{side / block} + (side % block != 0); };
  return units(view.rows, view.block_rows) * units(view.cols, view.block_cols);
}

int FormatVersion(const uint8_t* data, size_t num_bytes) {
  const bool begins =
      data != nullptr && num_bytes >= 5 && data[0] == 'K' && data[1] == 'P' && data[2] == 'R' && data[3] == 'I';
  return begins ? data[4] : 0;
}

Status ParseTensor(const uint8_t* data, size_t num_bytes, TensorView* view) {
  *view = TensorView();
  TensorView parsed;
  Status status = ParseHeader(data, num_bytes, &parsed);
  if (status != Status::kOk) return status;
  if (!ChecksumIsRight(data, num_bytes)) return Status::kBadChecksum;
  status = ParseSections(data, num_bytes, &parsed);
  if (status == Status::kOk) *view = parsed;
  return status;
}

}  // namespace keras_prune
