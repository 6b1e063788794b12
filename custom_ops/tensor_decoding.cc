// Decodes version-2 buffers: positions and values side by side, a chunk at a time.
#include "bytes.h"
#include "tensor_format.h"
#include "tensor_reader.h"

namespace keras_prune {
namespace {

// The scale of a position's row; positions mostly grow.
class RowScale {
 public:
  explicit RowScale(const TensorView& view) : view_(view) {}
  float operator()(uint64_t position) {
    for (; position >= begin_ + view_.cols; begin_ += view_.cols) ++row_;
    for (; position < begin_; begin_ -= view_.cols) --row_;
    return FloatFromBits(Load32(view_.table + 4 * size_t{row_}));
  }

 private:
  const TensorView& view_;
  uint32_t row_ = 0;
  uint64_t begin_ = 0;
};

bool IsSingle(const TensorView& view) { return view.block_rows == 1 && view.block_cols == 1; }

// Calls sink->Value(position, value) for every value, in order, of units of one weight; before these calls
// sink->Reach(end) says that the next ones are for positions below `end`.
template <typename T, typename Sink>
Status VisitWeights(const TensorView& view, ValueReader<T>* values, Sink* sink) {
  PositionReader reader(view);
  uint32_t positions[kChunk], count = 0;
  for (;;) {
    Status status = reader.Next(positions, &count);
    if (status != Status::kOk || count == 0) return status;
    sink->Reach(uint64_t{positions[count - 1]} + 1);
    for (uint32_t i = 0, size; i < count; i += size) {
      const T* run;
      status = values->Take(count - i, &run, &size);
      if (status != Status::kOk) return status;
      for (uint32_t k = 0; k < size; ++k) sink->Value(positions[i + k], run[k]);
    }
  }
}

// One weight a unit and none pruned: the values are the matrix.
template <typename T, typename Sink>
Status VisitAll(const TensorView& view, ValueReader<T>* values, Sink* sink) {
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  uint32_t size;
  for (uint64_t position = 0; position < weights; position += size) {
    const T* run;
    const Status status = values->Take(weights - position, &run, &size);
    if (status != Status::kOk) return status;
    for (uint32_t k = 0; k < size; ++k) sink->Value(static_cast<uint32_t>(position) + k, run[k]);
  }
  return Status::kOk;
}

// The same for larger units: row by row within each.
template <typename T, typename Sink>
Status VisitUnit(const TensorView& view, uint32_t first_row, uint32_t first_col, ValueReader<T>* values, Sink* sink) {
  const uint32_t height = view.rows - first_row < view.block_rows ? view.rows - first_row : view.block_rows;
  const uint32_t width = view.cols - first_col < view.block_cols ? view.cols - first_col : view.block_cols;
  for (uint32_t row = first_row; row < first_row + height; ++row) {
    const uint32_t position = row * view.cols + first_col;  // below 2^32
    for (uint32_t col = 0, size; col < width; col += size) {
      const T* run;
      const Status status = values->Take(width - col, &run, &size);
      if (status != Status::kOk) return status;
      for (uint32_t k = 0; k < size; ++k) sink->Value(position + col + k, run[k]);
    }
  }
  return Status::kOk;
}

template <typename T, typename Sink>
Status VisitUnits(const TensorView& view, ValueReader<T>* values, Sink* sink) {
  PositionReader reader(view);
  uint32_t positions[kChunk], count = 0, unit_row = 0;
  const uint32_t units_in_row = view.cols / view.block_cols + (view.cols % view.block_cols != 0);
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  uint64_t row_begin = 0;
  for (;;) {
    Status status = reader.Next(positions, &count);
    if (status != Status::kOk || count == 0) return status;
    for (uint32_t i = 0; i < count; ++i) {
      for (; positions[i] - row_begin >= units_in_row; row_begin += units_in_row) ++unit_row;
      const uint64_t band_end = uint64_t{unit_row + 1} * view.block_rows * view.cols;
      sink->Reach(band_end < weights ? band_end : weights);
      const auto unit_col = static_cast<uint32_t>(positions[i] - row_begin);
      status = VisitUnit(view, unit_row * view.block_rows, unit_col * view.block_cols, values, sink);
      if (status != Status::kOk) return status;
    }
  }
}

// Every value, and every rule of the streams.
template <typename T, typename Sink>
Status VisitValues(const TensorView& view, Sink* sink) {
  ValueReader<T> values(view);
  const Status status = !IsSingle(view)                     ? VisitUnits(view, &values, sink)
                        : view.positions == Positions::kAll ? VisitAll(view, &values, sink)
                                                            : VisitWeights(view, &values, sink);
  return status == Status::kOk ? values.Finish() : status;
}

// Fills what was pruned just ahead of the values, while it is in the cache.
template <typename T>
struct DenseSink {
  T* out;
  T fill;
  uint64_t filled;

  void Reach(uint64_t end) {
    T* const to = out;
    const T value = fill;
    for (uint64_t i = filled; i < end; ++i) to[i] = value;
    filled = filled < end ? end : filled;
  }
  void Value(uint32_t position, T value) { out[position] = value; }
};

struct ScaledSink : DenseSink<float> {
  RowScale scale;
  void Value(uint32_t position, float value) { out[position] = value * scale(position); }
};

template <typename T, typename Sink>
Status UnpackInto(const TensorView& view, Sink sink) {
  const uint64_t weights = uint64_t{view.rows} * view.cols;
  if (view.positions == Positions::kAll) sink.filled = weights;
  const Status status = VisitValues<T>(view, &sink);
  if (status == Status::kOk) sink.Reach(weights);
  return status;
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

// Entries of units of one weight.
struct EntrySink {
  EntryWriter* entries;
  void Reach(uint64_t) {}
  void Value(uint32_t position, uint8_t code) { entries->Append(position, code); }
};

// Entries of larger units: the codes of one row of units are put in row-major order first.
struct BandSink {
  EntryWriter* entries;
  const TensorView& view;
  uint8_t* codes;
  uint64_t begin = 0, end = 0;  // positions of the band

  void Reach(uint64_t to) {
    if (to <= end) return;
    Flush();
    const uint64_t most = uint64_t{view.block_rows} * view.cols;
    begin = (to - 1) / most * most;
    end = to;
    for (uint64_t i = 0; i < end - begin; ++i) codes[i] = 0;
  }
  void Value(uint32_t position, uint8_t code) { codes[position - begin] = code; }
  void Flush() {
    for (uint64_t i = begin; i < end; ++i) entries->Append(i, codes[i - begin]);
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
  if (as == ElementType::kFloat32) {
    const DenseSink<float> sink = {static_cast<float*>(out), 0.0f, 0};
    return view.values == Values::kScaled ? UnpackInto<float>(view, ScaledSink{sink, RowScale(view)})
                                          : UnpackInto<float>(view, sink);
  }
  if (as == ElementType::kFloat16) {
    return UnpackInto<uint16_t>(view, DenseSink<uint16_t>{static_cast<uint16_t*>(out), 0, 0});
  }
  return UnpackInto<uint8_t>(view, DenseSink<uint8_t>{static_cast<uint8_t*>(out), view.fill, 0});
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
    EntrySink sink = {&writer};
    status = VisitValues<uint8_t>(view, &sink);
  } else {
    BandSink sink = {&writer, view, memory + 2 * MostEntries(view)};
    status = VisitValues<uint8_t>(view, &sink);
    if (status == Status::kOk) sink.Flush();
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
