// Decodes version-2 buffers: positions and values side by side, a chunk at a time.
#include "bytes.h"
#include "tensor_format.h"

namespace keras_prune {
namespace {

constexpr uint32_t kChunk = 1024;  // values decoded at once
static_assert(kChunk % kMaxLanes == 0, "every chunk begins at the first lane");

// The numbers of the kept units, in order.
class PositionReader {
 public:
  explicit PositionReader(const TensorView& view)
      : kind_(view.positions),
        escape_(view.escape),
        kept_(view.num_units),
        units_(NumUnits(view)),
        reader_(view.position_stream) {}

  // The next ones, at most kChunk; *count is 0 at the end.
  Status Next(uint32_t* positions, uint32_t* count) {
    *count = 0;
    if (kind_ == Positions::kAll) {
      for (; *count < kChunk && next_ < units_; ++*count) positions[*count] = static_cast<uint32_t>(next_++);
      return Status::kOk;
    }
    while (*count == 0 && reader_.left() != 0) {
      const uint32_t most = kind_ == Positions::kGaps ? kChunk : kChunk / 8;
      const uint32_t size = reader_.left() < most ? reader_.left() : most;
      Status status = reader_.Read(size, symbols_);
      if (status == Status::kOk)
        status = kind_ == Positions::kGaps ? FromGaps(size, positions, count) : FromBitmap(size, positions, count);
      if (status != Status::kOk) return status;
    }
    read_ += *count;
    return reader_.left() == 0 ? Finish() : Status::kOk;
  }

 private:
  Status FromGaps(uint32_t size, uint32_t* positions, uint32_t* count) {
    uint64_t next = next_;
    uint32_t kept = 0, largest = 0;
    for (uint32_t i = 0; i < size; ++i) {
      const uint32_t symbol = symbols_[i], is_kept = symbol < escape_;
      largest = symbol > largest ? symbol : largest;
      positions[kept] = static_cast<uint32_t>(next + symbol);
      kept += is_kept;
      next += symbol + is_kept;
    }
    next_ = next;
    *count = kept;
    last_is_kept_ = symbols_[size - 1] < escape_;
    return largest <= escape_ && next <= units_ ? Status::kOk : Status::kBadEntries;
  }

  Status FromBitmap(uint32_t size, uint32_t* positions, uint32_t* count) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < size; ++i, next_ += 8) {
      for (uint32_t byte = symbols_[i]; byte != 0; byte &= byte - 1) {
        positions[kept++] = static_cast<uint32_t>(next_) + static_cast<uint32_t>(__builtin_ctz(byte));
      }
    }
    *count = kept;
    return kept == 0 || positions[kept - 1] < units_ ? Status::kOk : Status::kBadEntries;
  }

  Status Finish() const { return last_is_kept_ && read_ == kept_ ? reader_.Finish() : Status::kBadEntries; }

  const Positions kind_;
  const uint32_t escape_, kept_;
  const uint64_t units_;
  uint64_t next_ = 0, read_ = 0;
  bool last_is_kept_ = true;
  uint8_t symbols_[kChunk];
  SymbolReader reader_;
};

// float32 of the same value; NaN keeps its bits.
uint32_t FloatBitsOfHalf(uint32_t half) {
  const uint32_t sign = (half & 0x8000) << 16, magnitude = half & 0x7FFF;
  if (magnitude >= 0x7C00) return sign | 0x7F800000u | (magnitude & 0x3FF) << 13;
  if (magnitude >= 0x0400) return sign | ((magnitude << 13) + (112u << 23));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return sign | bits;
}

// The values of the kept units, a chunk at a time, as T: float (of scaled values the code), uint16_t (float16) or
// uint8_t (the symbol itself, also of a codebook).
template <typename T>
class ValueReader {
 public:
  explicit ValueReader(const TensorView& view) : view_(view), reader_(view.symbol_stream), low_(view.low) {
    for (uint32_t code = 0; code < 256; ++code) {
      table_[code] = view.values == Values::kScaled            ? static_cast<float>(static_cast<int8_t>(code))
                     : code == 0 || code >= view.codebook_size ? 0.0f
                                                               : FloatFromBits(Load32(view.table + 4 * (code - 1)));
    }
  }

  // At most `wanted` values (one or more), which stay where they are until the next call.
  Status Take(uint64_t wanted, const T** values, uint32_t* count) {
    if (at_ == size_) {
      const Status status = Fill();
      if (status != Status::kOk) return status;
    }
    *count = size_ - at_ < wanted ? size_ - at_ : static_cast<uint32_t>(wanted);
    *values = chunk_ + at_;
    at_ += *count;
    return Status::kOk;
  }

  Status Finish() const { return at_ == size_ ? reader_.Finish() : Status::kBadEntries; }

 private:
  Status Fill() {
    at_ = 0;
    size_ = reader_.left() < kChunk ? reader_.left() : kChunk;
    if (size_ == 0) return Status::kBadEntries;
    const Status status = reader_.Read(size_, symbols_);
    if (status != Status::kOk) return status;
    if (view_.values == Values::kCodebook) {
      uint8_t largest = 0;
      for (uint32_t i = 0; i < size_; ++i) largest = symbols_[i] > largest ? symbols_[i] : largest;
      if (largest >= view_.codebook_size) return Status::kBadEntries;
    }
    Convert();
    return Status::kOk;
  }

  void Convert() {
    if constexpr (sizeof(T) == 1) {
      for (uint32_t i = 0; i < size_; ++i) chunk_[i] = symbols_[i];
    } else if constexpr (sizeof(T) == 2) {
      for (uint32_t i = 0; i < size_; ++i) chunk_[i] = static_cast<T>(uint32_t{symbols_[i]} << 8 | low_[i]);
      low_ += size_;
    } else if (view_.values != Values::kSplit) {
      for (uint32_t i = 0; i < size_; ++i) chunk_[i] = table_[symbols_[i]];
    } else if (view_.element == ElementType::kFloat16) {
      for (uint32_t i = 0; i < size_; ++i) {
        chunk_[i] = FloatFromBits(FloatBitsOfHalf(uint32_t{symbols_[i]} << 8 | low_[i]));
      }
      low_ += size_;
    } else {
      for (uint32_t i = 0; i < size_; ++i, low_ += 3) {
        const uint32_t low = Load16(low_) | uint32_t{low_[2]} << 16;
        chunk_[i] = FloatFromBits((low & 0x7FFFFF) | uint32_t{symbols_[i]} << 23 | (low >> 23) << 31);
      }
    }
  }

  const TensorView& view_;
  uint32_t at_ = 0, size_ = 0;
  T chunk_[kChunk];
  uint8_t symbols_[kChunk];
  float table_[256];
  SymbolReader reader_;
  const uint8_t* low_;
};

bool IsSingle(const TensorView& view) { return view.block_rows == 1 && view.block_cols == 1; }

// Calls visit(row, position, value) for every value, in order, of units of one weight.
template <typename T, typename Visit>
Status VisitWeights(const TensorView& view, ValueReader<T>* values, Visit&& visit) {
  PositionReader reader(view);
  uint32_t positions[kChunk], count = 0, row = 0;
  uint64_t row_end = view.cols;
  for (;;) {
    Status status = reader.Next(positions, &count);
    if (status != Status::kOk || count == 0) return status;
    for (uint32_t i = 0, size; i < count; i += size) {
      const T* run;
      status = values->Take(count - i, &run, &size);
      if (status != Status::kOk) return status;
      for (uint32_t k = 0; k < size; ++k) {
        const uint32_t position = positions[i + k];
        for (; position >= row_end; row_end += view.cols) ++row;
        visit(row, position, run[k]);
      }
    }
  }
}

// The same for larger units: row by row within each.
template <typename T, typename Visit>
Status VisitUnit(const TensorView& view, uint32_t first_row, uint32_t first_col, ValueReader<T>* values,
                 Visit&& visit) {
  const uint32_t height = view.rows - first_row < view.block_rows ? view.rows - first_row : view.block_rows;
  const uint32_t width = view.cols - first_col < view.block_cols ? view.cols - first_col : view.block_cols;
  for (uint32_t row = first_row; row < first_row + height; ++row) {
    const uint32_t position = row * view.cols + first_col;  // below 2^32
    for (uint32_t col = 0, size; col < width; col += size) {
      const T* run;
      const Status status = values->Take(width - col, &run, &size);
      if (status != Status::kOk) return status;
      for (uint32_t k = 0; k < size; ++k) visit(row, position + col + k, run[k]);
    }
  }
  return Status::kOk;
}

template <typename T, typename Visit>
Status VisitUnits(const TensorView& view, ValueReader<T>* values, Visit&& visit) {
  PositionReader reader(view);
  uint32_t positions[kChunk], count = 0, unit_row = 0;
  const uint32_t units_in_row = view.cols / view.block_cols + (view.cols % view.block_cols != 0);
  uint64_t row_begin = 0;
  for (;;) {
    Status status = reader.Next(positions, &count);
    if (status != Status::kOk || count == 0) return status;
    for (uint32_t i = 0; i < count; ++i) {
      for (; positions[i] - row_begin >= units_in_row; row_begin += units_in_row) ++unit_row;
      const auto unit_col = static_cast<uint32_t>(positions[i] - row_begin);
      status = VisitUnit(view, unit_row * view.block_rows, unit_col * view.block_cols, values, visit);
      if (status != Status::kOk) return status;
    }
  }
}

// Every value, and every rule of the streams.
template <typename T, typename Visit>
Status VisitValues(const TensorView& view, Visit&& visit) {
  ValueReader<T> values(view);
  const Status status = IsSingle(view) ? VisitWeights(view, &values, visit) : VisitUnits(view, &values, visit);
  return status == Status::kOk ? values.Finish() : status;
}

template <typename T>
Status UnpackAs(const TensorView& view, T fill, T* out) {
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  if (view.positions != Positions::kAll) {
    for (uint64_t i = 0; i < weights; ++i) out[i] = fill;
  }
  if constexpr (sizeof(T) == 4) {
    if (view.values == Values::kScaled) {
      return VisitValues<T>(view, [&](uint32_t row, uint32_t position, T value) {
        out[position] = value * FloatFromBits(Load32(view.table + 4 * size_t{row}));
      });
    }
  }
  return VisitValues<T>(view, [&](uint32_t, uint32_t position, T value) { out[position] = value; });
}

// The entries of a codebook matrix, appended in row-major order.
struct EntryWriter {
  uint8_t *gaps, *codes;
  uint32_t num_entries = 0, num_kept = 0;
  uint64_t next = 0;

  void Append(uint64_t position, uint8_t code) {
    if (code == 0) return;
    for (; position - next > 255; next += 256) Put(255, 0);
    Put(static_cast<uint8_t>(position - next), code);
    next = position + 1;
    ++num_kept;
  }

  void Put(uint8_t gap, uint8_t code) {
    gaps[num_entries] = gap;
    codes[num_entries++] = code;
  }
};

// The codes of one row of units, put in row-major order.
struct Band {
  const TensorView& view;
  uint8_t* codes;
  uint64_t begin = 0;  // position of the band's first weight

  uint64_t size() const {
    const uint64_t most = uint64_t{view.block_rows} * view.cols, left = uint64_t{view.rows} * view.cols - begin;
    return left < most ? left : most;
  }

  void Flush(EntryWriter* entries) {
    const uint64_t count = size();
    for (uint64_t i = 0; i < count; ++i) entries->Append(begin + i, codes[i]);
    for (uint64_t i = 0; i < count; ++i) codes[i] = 0;
    begin += count;
  }
};

// A filler bridges 256 weights.
uint64_t MostEntries(const TensorView& view) {
  return view.symbol_stream.num_symbols + uint64_t{view.rows} * view.cols / 256;
}

}  // namespace

Status UnpackTensor(const TensorView& view, ElementType as, void* out) {
  const bool widen = as == ElementType::kFloat32 && view.element == ElementType::kFloat16;
  if (as != view.element && !widen) return Status::kBadSizes;
  if (as == ElementType::kFloat32) return UnpackAs<float>(view, 0.0f, static_cast<float*>(out));
  if (as == ElementType::kFloat16) return UnpackAs<uint16_t>(view, 0, static_cast<uint16_t*>(out));
  return UnpackAs<uint8_t>(view, view.fill, static_cast<uint8_t*>(out));
}

uint64_t EntriesBytes(const TensorView& view) {
  return 2 * MostEntries(view) + (IsSingle(view) ? 0 : uint64_t{view.block_rows} * view.cols);
}

Status UnpackEntries(const TensorView& view, uint8_t* memory, PackedView* entries) {
  *entries = PackedView();
  if (view.values != Values::kCodebook) return Status::kBadSizes;
  EntryWriter writer = {memory, memory + MostEntries(view)};
  Status status;
  if (IsSingle(view)) {
    status = VisitValues<uint8_t>(view, [&](uint32_t, uint32_t at, uint8_t code) { writer.Append(at, code); });
  } else {
    Band band = {view, memory + 2 * MostEntries(view)};
    for (uint64_t i = 0; i < band.size(); ++i) band.codes[i] = 0;
    status = VisitValues<uint8_t>(view, [&](uint32_t, uint32_t at, uint8_t code) {
      while (at >= band.begin + band.size()) band.Flush(&writer);
      band.codes[at - band.begin] = code;
    });
    band.Flush(&writer);
  }
  if (status != Status::kOk) return status;
  entries->rows = view.rows;
  entries->cols = view.cols;
  entries->num_entries = writer.num_entries;
  entries->num_kept = writer.num_kept;
  entries->codebook_size = view.codebook_size;
  entries->gap_bits = entries->code_bits = 8;
  entries->codebook = view.table;
  entries->gaps = writer.gaps;
  entries->codes = writer.codes;
  return Status::kOk;
}

}  // namespace keras_prune
