// The two halves of a version-2 buffer, decoded a chunk at a time; internal to the storage format.
#ifndef KERAS_PRUNE_TENSOR_READER_H_
#define KERAS_PRUNE_TENSOR_READER_H_

#include "bytes.h"
#include "tensor_format.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): see sparse_format.h

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
    for (uint32_t i = 0; i < size; i += 8) {
      for (uint64_t word = EightValues(symbols_ + i, size - i, 8); word != 0; word &= word - 1) {
        positions[kept++] = static_cast<uint32_t>(next_) + 8 * i + static_cast<uint32_t>(__builtin_ctzll(word));
      }
    }
    next_ += 8 * uint64_t{size};
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
inline uint32_t FloatBitsOfHalf(uint32_t half) {
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
      const auto join = [this](uint32_t i, uint32_t low) {  // the low 24 bits count
        chunk_[i] = FloatFromBits((low & 0x7FFFFF) | uint32_t{symbols_[i]} << 23 | (low & 0x800000) << 8);
      };
      for (uint32_t i = 0; i + 1 < size_; ++i) join(i, Load32(low_ + 3 * i));  // a fourth byte is there
      join(size_ - 1, Load16(low_ + 3 * (size_ - 1)) | uint32_t{low_[3 * size_ - 1]} << 16);
      low_ += 3 * size_;
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

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_TENSOR_READER_H_
