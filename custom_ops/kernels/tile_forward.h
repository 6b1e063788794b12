// The inner loops of the kernels on tiles, for any vector type; internal to custom_ops/kernels.
//
// Simd: Vector, kWidth, Load, Store, Broadcast(const float*), Add, Multiply, MultiplyAdd(a, b, sum),
// Clamp(v, low, high).
#ifndef KERAS_PRUNE_KERNELS_TILE_FORWARD_H_
#define KERAS_PRUNE_KERNELS_TILE_FORWARD_H_

#include "tile.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

template <typename Simd, int kVectors>
struct TileSums {
  typename Simd::Vector at[kVectors];

  void Load(const float* from) {
    for (int v = 0; v < kVectors; ++v) at[v] = Simd::Load(from + v * Simd::kWidth);
  }
  void Fill(const float* value) {
    for (int v = 0; v < kVectors; ++v) at[v] = Simd::Broadcast(value);
  }
  void AddProducts(const float* weight, const float* x) {
    const typename Simd::Vector w = Simd::Broadcast(weight);
    for (int v = 0; v < kVectors; ++v) at[v] = Simd::MultiplyAdd(w, Simd::Load(x + v * Simd::kWidth), at[v]);
  }
  void Store(float* to) const {
    for (int v = 0; v < kVectors; ++v) Simd::Store(at[v], to + v * Simd::kWidth);
  }
};

// How sums begin and end. Those of float32 begin with the bias.
template <typename Simd, int kVectors>
struct Float32Ends {
  const RowBlock& rows;
  const uint32_t* row_of;
  typename Simd::Vector low, high;

  Float32Ends(const TileLayout&, const RowBlock& block, const uint32_t* rows_of_part)
      : rows(block), row_of(rows_of_part), low(Simd::Broadcast(&block.low)), high(Simd::Broadcast(&block.high)) {}
  void Begin(uint32_t row, const float*, TileSums<Simd, kVectors>* sums) const {
    static const float zero = 0.0f;
    sums->Fill(rows.bias != nullptr ? rows.bias + row_of[row] : &zero);
  }
  void End(uint32_t, TileSums<Simd, kVectors>* sums) const {
    for (int v = 0; v < kVectors; ++v) sums->at[v] = Simd::Clamp(sums->at[v], low, high);
  }
};

// Of whole numbers: Int8Result (int8.h).
template <typename Simd, int kVectors>
struct Int8Ends {
  const RowBlock& rows;
  const uint32_t* row_of;
  typename Simd::Vector low, high;
  TileSums<Simd, kVectors> scale;

  Int8Ends(const TileLayout& w, const RowBlock& block, const uint32_t* rows_of_part)
      : rows(block), row_of(rows_of_part), low(Simd::Broadcast(&block.low)), high(Simd::Broadcast(&block.high)) {
    alignas(kAlignment) float steps[kVectors * Simd::kWidth] = {};
    for (size_t b = 0; b < rows.count; ++b) steps[b] = rows.scales[b] * w.w_scale;
    scale.Load(steps);
  }
  void Begin(uint32_t, const float*, TileSums<Simd, kVectors>* sums) const {
    static const float zero = 0.0f;
    sums->Fill(&zero);
  }
  void End(uint32_t row, TileSums<Simd, kVectors>* sums) const {
    static const float zero = 0.0f;
    const typename Simd::Vector bias = Simd::Broadcast(rows.bias != nullptr ? rows.bias + row_of[row] : &zero);
    for (int v = 0; v < kVectors; ++v) {
      const typename Simd::Vector result = Simd::Add(Simd::Multiply(sums->at[v], scale.at[v]), bias);
      sums->at[v] = Simd::Clamp(result, low, high);
    }
  }
};

// They wait in the buffer between blocks.
template <typename Simd, int kVectors>
struct WaitingEnds {
  void Begin(uint32_t, const float* sum, TileSums<Simd, kVectors>* sums) const { sums->Load(sum); }
  void End(uint32_t, TileSums<Simd, kVectors>*) const {}
};

// The next block's piece of x comes to the second-level cache while this one is computed.
struct Ahead {
  const char* at;
  size_t num_bytes;

  void Fetch() {
    if (num_bytes < 128) return;
    __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(at + 64, 0, 2);
    at += 128;
    num_bytes -= 128;
  }
};

// Two entries at a time with sums of their own: twice as many independent additions hide their latency.
template <typename Simd, int kVectors, bool kNibbles, typename Ends>
void AddBlock(const TileLayout& w, const TileBlock* block, const float* x, Ahead ahead, const Ends& ends, float* sums) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  static const float zero = 0.0f;
  const uint8_t *columns = w.columns + block->entry, *codes = w.codes + block->code, *row = w.rows_of + block->row;
  for (const TileRun *run = w.runs + block->run, *end = w.runs + block[1].run; run != end; ++run) {
    const uint32_t pairs = (run->entries + 1u) / 2;
    const bool odd = run->entries % 2 == 0;
    for (uint32_t left = run->rows + 1u; left != 0; --left) {
      const uint32_t at = *row++;
      float* sum = sums + at * kStride;
      TileSums<Simd, kVectors> first, second;
      ends.Begin(at, sum, &first);
      second.Fill(&zero);
      ahead.Fetch();
      for (uint32_t pair = pairs; pair != 0; --pair, columns += 2) {
        const uint32_t code = *codes++;
        first.AddProducts(w.codebook + (kNibbles ? code & 15 : code), x + columns[0] * kStride);
        second.AddProducts(w.codebook + (kNibbles ? code >> 4 : *codes++), x + columns[1] * kStride);
      }
      if (odd) first.AddProducts(w.codebook + *codes++, x + *columns++ * kStride);
      for (int v = 0; v < kVectors; ++v) first.at[v] = Simd::Add(first.at[v], second.at[v]);
      ends.End(at, &first);
      first.Store(sum);
    }
  }
}

// A row's products are added in the order of its blocks, whatever else is computed.
template <typename Simd, int kVectors, bool kNibbles>
void AddBlocks(const TileLayout& w, const float* x, uint32_t part, float* sums) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  for (uint32_t block = w.first_block[part]; block < w.first_block[part + 1]; ++block) {
    const TileBlock* at = w.blocks + block;
    Ahead ahead = {nullptr, 0};
    if (block + 1 < w.first_block[part + 1]) {
      const size_t cols = w.cols - at[1].col < kBlockCols ? w.cols - at[1].col : kBlockCols;
      ahead = {reinterpret_cast<const char*>(x + at[1].col * kStride), cols * kStride * sizeof(float)};
    }
    AddBlock<Simd, kVectors, kNibbles>(w, at, x + at->col * kStride, ahead, WaitingEnds<Simd, kVectors>(), sums);
  }
}

// In a part's only block every kept row has weights: sums begin and end there, in registers. With AVX2, 1x1 convolutions of
// 64x32 to 128x128 at 10 % then take .8 to .88 of the time, of 256x256 .91; layers of several blocks, up to .02 more.
template <typename Simd, int kVectors, bool kNibbles, typename Ends>
void ForwardPart(const TileLayout& w, const RowBlock& rows, uint32_t part) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  alignas(kAlignment) float sums[kPartRows * kStride];
  const auto* x = static_cast<const float*>(rows.x);
  const uint32_t first = part * w.part_rows, left = w.kept_rows - first;
  const uint32_t count = left < w.part_rows ? left : w.part_rows;
  const Ends ends(w, rows, w.row_of + first);
  const TileBlock* only = w.blocks + w.first_block[part];
  if (w.first_block[part + 1] - w.first_block[part] == 1) {
    AddBlock<Simd, kVectors, kNibbles>(w, only, x + only->col * kStride, {nullptr, 0}, ends, sums);
    return StoreTile(w, part, sums, kStride, rows);
  }
  TileSums<Simd, kVectors> row;
  for (uint32_t i = 0; i < count; ++i) {
    ends.Begin(i, nullptr, &row);
    row.Store(sums + i * kStride);
  }
  AddBlocks<Simd, kVectors, kNibbles>(w, x, part, sums);
  for (uint32_t i = 0; i < count; ++i) {
    row.Load(sums + i * kStride);
    ends.End(i, &row);
    row.Store(sums + i * kStride);
  }
  StoreTile(w, part, sums, kStride, rows);
}

template <typename Simd, int kVectors, bool kNibbles>
void ForwardPartOf(const TileLayout& w, const RowBlock& rows, uint32_t part) {
  IsInt8(w.kernel->input) ? ForwardPart<Simd, kVectors, kNibbles, Int8Ends<Simd, kVectors>>(w, rows, part)
                          : ForwardPart<Simd, kVectors, kNibbles, Float32Ends<Simd, kVectors>>(w, rows, part);
}

template <typename Simd, size_t kStride>
void ForwardTileParts(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  constexpr int kVectors = kStride / Simd::kWidth;
  const auto& w = *static_cast<const TileLayout*>(layout);
  for (uint32_t part = first; part < end; ++part) {
    w.nibbles ? ForwardPartOf<Simd, kVectors, true>(w, rows, part)
              : ForwardPartOf<Simd, kVectors, false>(w, rows, part);
  }
}

// A kernel's forward. Odd: where 8 or 24 batch rows are no whole number of vectors.
template <typename Simd, typename Odd = Simd>
void ForwardTile(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  switch (rows.stride) {
    case 8: return ForwardTileParts<Odd, 8>(layout, rows, first, end);
    case 16: return ForwardTileParts<Simd, 16>(layout, rows, first, end);
    case 24: return ForwardTileParts<Odd, 24>(layout, rows, first, end);
    default: return ForwardTileParts<Simd, kTileWidth>(layout, rows, first, end);
  }
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_TILE_FORWARD_H_
