// The inner loops of the kernels on tiles, for any vector type; internal to custom_ops/kernels.
//
// Simd: Vector, kWidth, Load, Store, Broadcast(const float*), Add, Multiply, MultiplyAdd(a, b, sum),
// Clamp(v, low, high).
#ifndef KERAS_PRUNE_KERNELS_TILE_FORWARD_H_
#define KERAS_PRUNE_KERNELS_TILE_FORWARD_H_

#include <string.h>

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
template <typename Simd, int kVectors, bool kNibbles>
void AddBlock(const TileLayout& w, const TileBlock* block, const float* x, Ahead ahead, float* sums) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  static const float zero = 0.0f;
  const uint8_t *columns = w.columns + block->entry, *codes = w.codes + block->code, *row = w.rows_of + block->row;
  for (const TileRun *run = w.runs + block->run, *end = w.runs + block[1].run; run != end; ++run) {
    const uint32_t pairs = (run->entries + 1u) / 2;
    const bool odd = run->entries % 2 == 0;
    for (uint32_t left = run->rows + 1u; left != 0; --left) {
      float* sum = sums + *row++ * kStride;
      TileSums<Simd, kVectors> first, second;
      first.Load(sum);
      second.Fill(&zero);
      ahead.Fetch();
      for (uint32_t pair = pairs; pair != 0; --pair, columns += 2) {
        const uint32_t code = *codes++;
        first.AddProducts(w.codebook + (kNibbles ? code & 15 : code), x + columns[0] * kStride);
        second.AddProducts(w.codebook + (kNibbles ? code >> 4 : *codes++), x + columns[1] * kStride);
      }
      if (odd) first.AddProducts(w.codebook + *codes++, x + *columns++ * kStride);
      for (int v = 0; v < kVectors; ++v) first.at[v] = Simd::Add(first.at[v], second.at[v]);
      first.Store(sum);
    }
  }
}

// Sums of float32 begin with the bias.
template <typename Simd, int kVectors>
void BeginSums(const RowBlock& rows, const uint32_t* row_of, uint32_t count, float* sums) {
  static const float zero = 0.0f;
  TileSums<Simd, kVectors> row;
  for (uint32_t i = 0; i < count; ++i) {
    row.Fill(rows.bias != nullptr ? rows.bias + row_of[i] : &zero);
    row.Store(sums + i * kVectors * Simd::kWidth);
  }
}

template <typename Simd, int kVectors>
void FinishSums(const RowBlock& rows, uint32_t count, float* sums) {
  const typename Simd::Vector low = Simd::Broadcast(&rows.low), high = Simd::Broadcast(&rows.high);
  for (size_t i = 0; i < count * kVectors * Simd::kWidth; i += Simd::kWidth) {
    Simd::Store(Simd::Clamp(Simd::Load(sums + i), low, high), sums + i);
  }
}

// Int8Result (int8.h) of sums of whole numbers.
template <typename Simd, int kVectors>
void FinishInt8Sums(const TileLayout& w, const RowBlock& rows, const uint32_t* row_of, uint32_t count, float* sums) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  static const float zero = 0.0f;
  alignas(kAlignment) float steps[kStride] = {};
  for (size_t b = 0; b < rows.count; ++b) steps[b] = rows.scales[b] * w.w_scale;
  TileSums<Simd, kVectors> scale;
  scale.Load(steps);
  const typename Simd::Vector low = Simd::Broadcast(&rows.low), high = Simd::Broadcast(&rows.high);
  for (uint32_t i = 0; i < count; ++i, sums += kStride) {
    const typename Simd::Vector bias = Simd::Broadcast(rows.bias != nullptr ? rows.bias + row_of[i] : &zero);
    for (int v = 0; v < kVectors; ++v) {
      float* at = sums + v * Simd::kWidth;
      Simd::Store(Simd::Clamp(Simd::Add(Simd::Multiply(Simd::Load(at), scale.at[v]), bias), low, high), at);
    }
  }
}

// A row's products are added in the order of its blocks, whatever else is computed.
template <typename Simd, int kVectors, bool kNibbles>
void ForwardPart(const TileLayout& w, const RowBlock& rows, uint32_t part) {
  constexpr size_t kStride = kVectors * Simd::kWidth;
  alignas(kAlignment) float sums[kPartRows * kStride];
  const auto* x = static_cast<const float*>(rows.x);
  const bool is_int8 = IsInt8(w.kernel->input);
  const uint32_t first = part * w.part_rows, left = w.kept_rows - first;
  const uint32_t count = left < w.part_rows ? left : w.part_rows;
  if (is_int8) {
    memset(sums, 0, count * kStride * sizeof(float));
  } else {
    BeginSums<Simd, kVectors>(rows, w.row_of + first, count, sums);
  }
  for (uint32_t block = w.first_block[part]; block < w.first_block[part + 1]; ++block) {
    const TileBlock* at = w.blocks + block;
    Ahead ahead = {nullptr, 0};
    if (block + 1 < w.first_block[part + 1]) {
      const size_t cols = w.cols - at[1].col < kBlockCols ? w.cols - at[1].col : kBlockCols;
      ahead = {reinterpret_cast<const char*>(x + at[1].col * kStride), cols * kStride * sizeof(float)};
    }
    AddBlock<Simd, kVectors, kNibbles>(w, at, x + at->col * kStride, ahead, sums);
  }
  if (is_int8) {
    FinishInt8Sums<Simd, kVectors>(w, rows, w.row_of + first, count, sums);
  } else {
    FinishSums<Simd, kVectors>(rows, count, sums);
  }
  StoreTile(w, part, sums, kStride, rows);
}

template <typename Simd, size_t kStride>
void ForwardTileParts(const FcLayout* layout, const RowBlock& rows, uint32_t first, uint32_t end) {
  constexpr int kVectors = kStride / Simd::kWidth;
  const auto& w = *static_cast<const TileLayout*>(layout);
  for (uint32_t part = first; part < end; ++part) {
    w.nibbles ? ForwardPart<Simd, kVectors, true>(w, rows, part) : ForwardPart<Simd, kVectors, false>(w, rows, part);
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
