// Checks packed buffers. Every length is known before a byte is read, so hostile bytes end in a status.
#include "sparse_format.h"

#include "bytes.h"

// Tables of 1 KB each for the checksum: 8 for servers and phones (8 bytes a step), 1 where flash is scarce.
#ifndef KERAS_PRUNE_CRC_TABLES
#define KERAS_PRUNE_CRC_TABLES 8
#endif

namespace keras_prune {
namespace {

constexpr uint8_t kVersion = 1;
constexpr uint32_t kMaxSide = INT32_MAX;  // of rows and of columns: tensor dimensions of the runtimes are int32
constexpr int kCrcTables = KERAS_PRUNE_CRC_TABLES;
static_assert(kCrcTables == 1 || kCrcTables == 8, "KERAS_PRUNE_CRC_TABLES: expected 1 or 8");

struct CrcTables {
  uint32_t table[kCrcTables][256] = {};
  constexpr CrcTables() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t crc = byte;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320u : 0);
      table[0][byte] = crc;
    }
    for (int k = 1; k < kCrcTables; ++k) {
      for (int byte = 0; byte < 256; ++byte) {
        const uint32_t crc = table[k - 1][byte];
        table[k][byte] = (crc >> 8) ^ table[0][crc & 0xFF];
      }
    }
  }
};

constexpr CrcTables kCrc;

// Reads the head's fields and finds the three sections.
Status ParseHeader(const uint8_t* data, size_t num_bytes, PackedView* view) {
  if (data == nullptr || num_bytes < kHeaderBytes) return Status::kTruncated;
  if (data[0] != 'K' || data[1] != 'P' || data[2] != 'R' || data[3] != 'I') return Status::kBadMagic;
  if (data[4] != kVersion) return Status::kBadVersion;
  view->gap_bits = data[5];
  view->code_bits = data[6];
  view->rows = Load32(data + 8);
  view->cols = Load32(data + 12);
  view->num_entries = Load32(data + 16);
  view->num_kept = Load32(data + 20);
  view->codebook_size = Load32(data + 24);
  const uint64_t weights = uint64_t{view->rows} * view->cols;
  if (data[7] != 0 || view->gap_bits < 4 || view->gap_bits > 8 || view->code_bits < 2 || view->code_bits > 8 ||
      weights == 0 || weights >> 32 != 0 || view->rows > kMaxSide || view->cols > kMaxSide ||
      view->num_kept > view->num_entries || view->num_entries > weights || view->codebook_size < 1 ||
      view->codebook_size > 1u << view->code_bits) {
    return Status::kBadSizes;
  }
  const uint64_t codebook_bytes = 4 * uint64_t{view->codebook_size - 1};
  const uint64_t gap_bytes = StreamBytes(view->num_entries, view->gap_bits);
  const uint64_t expected = kHeaderBytes + codebook_bytes + gap_bytes + StreamBytes(view->num_entries, view->code_bits);
  if (Load32(data + 28) != expected) return Status::kBadSizes;
  if (num_bytes != expected) return num_bytes < expected ? Status::kTruncated : Status::kBadSizes;
  view->codebook = data + kHeaderBytes;
  view->gaps = view->codebook + codebook_bytes;
  view->codes = view->gaps + gap_bytes;
  return Status::kOk;
}

bool EntriesAreValid(const PackedView& view) {
  const uint32_t largest_gap = (1u << view.gap_bits) - 1;
  uint64_t end = 0;  // the position after the last entry; grows with every entry, so it is compared once
  uint32_t kept = 0, last_code = 1;
  bool ok = true;
  VisitEntries(view, [&](uint32_t gap, uint32_t code) {
    end += uint64_t{gap} + 1;
    kept += code != 0;
    ok &= (code != 0) | (gap == largest_gap);
    ok &= code < view.codebook_size;
    last_code = code;
  });
  return ok && end <= uint64_t{view.rows} * view.cols && kept == view.num_kept && last_code != 0 &&
         PaddingIsZero(view.gaps, view.num_entries, view.gap_bits) &&
         PaddingIsZero(view.codes, view.num_entries, view.code_bits);
}

}  // namespace

const char* StatusMessage(Status status) {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kTruncated:
      return "the packed weights are shorter than their header says (truncated); export the model again";
    case Status::kBadMagic:
      return "expected packed weights that begin with KPRI, got other bytes; export with keras_prune";
    case Status::kBadVersion:
      return "the packed weights have a format version that is not read here; install a keras_prune that reads it";
    case Status::kBadSizes:
      return "the packed weights' sizes contradict each other; export the model again";
    case Status::kBadChecksum:
      return "the packed weights' checksum does not match (corrupt); export the model again";
    case Status::kBadCodebook:
      return "the packed weights' codebook or scales hold NaN or infinity, or a scale is negative; look for diverged "
             "training";
    case Status::kBadEntries:
      return "the packed weights' entries break the format's rules; export with keras_prune";
    case Status::kBadStream:
      return "a symbol stream of the packed weights breaks the format's rules; export with keras_prune";
    case Status::kOutOfMemory:
      return "out of memory for the weights; use a smaller model or free memory";
  }
  return "unknown status";
}

uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t size) {
  crc = ~crc;
  if constexpr (kCrcTables == 8) {
    const auto& t = kCrc.table;
    for (; size >= 8; data += 8, size -= 8) {
      const uint32_t a = crc ^ Load32(data), b = Load32(data + 4);
      crc = t[7][a & 0xFF] ^ t[6][a >> 8 & 0xFF] ^ t[5][a >> 16 & 0xFF] ^ t[4][a >> 24] ^ t[3][b & 0xFF] ^
            t[2][b >> 8 & 0xFF] ^ t[1][b >> 16 & 0xFF] ^ t[0][b >> 24];
    }
  }
  for (; size != 0; ++data, --size) crc = (crc >> 8) ^ kCrc.table[0][(crc ^ *data) & 0xFF];
  return ~crc;
}

float CodebookValue(const PackedView& view, uint32_t code) {
  return code == 0 ? 0.0f : FloatFromBits(Load32(view.codebook + 4 * (code - 1)));
}

bool ChecksumIsRight(const uint8_t* data, size_t num_bytes) {
  const uint8_t zeros[4] = {0, 0, 0, 0};
  const uint32_t crc = Crc32(Crc32(0, data, kCrcOffset), zeros, sizeof zeros);
  return Crc32(crc, data + kHeaderBytes, num_bytes - kHeaderBytes) == Load32(data + kCrcOffset);
}

Status ParsePacked(const uint8_t* data, size_t num_bytes, PackedView* view) {
  *view = PackedView();
  PackedView parsed;
  const Status status = ParseHeader(data, num_bytes, &parsed);
  if (status != Status::kOk) return status;
  if (!ChecksumIsRight(data, num_bytes)) return Status::kBadChecksum;
  if (!AllFinite(parsed.codebook, parsed.codebook_size - 1)) return Status::kBadCodebook;
  if (!EntriesAreValid(parsed)) return Status::kBadEntries;
  *view = parsed;
  return Status::kOk;
}

}  // namespace keras_prune
