// The compute layout of the kernels for many batch rows: x stands as a tile, a column's values of up to 32 batch rows
// together, so that a kept weight is multiplied by neighbours and nothing is gathered.
//
// A part is up to 256 kept rows of W; a block is what a part has in 256 columns. A block's piece of the tile, 32 KB,
// stays in the first-level cache while all rows of the part go over it, and their sums wait in a buffer meanwhile. A
// column is 8 bits then. In a block the rows stand by their number of entries: the inner loop's length changes a few
// times a block instead of once a row, where each change would cost a mispredicted branch. There are no fillers.
//
// Measured on two shared cores of a Zen 4 (AVX2), 32 batch rows, ns a kept weight: AlexNet fc6 1.5 (rows one by one
// 13.7), fc8 1.3 (9.8), VGG fc6 1.7 (12.8), LeNet fc1 1.6 (10.2). Without blocks, x from the second and third level:
// AlexNet fc6 2.1, fc8 1.9, VGG fc6 2.8; blocks with their rows in order: 1.75, 1.35, 2.4. With 64 batch rows at once a
// product takes a tenth less where a row has many weights in a block and a fifth more at VGG fc6; with 16 a fifth more.
#ifndef KERAS_PRUNE_KERNELS_TILE_H_
#define KERAS_PRUNE_KERNELS_TILE_H_

#include "kernel.h"

namespace keras_prune {

constexpr uint32_t kPartRows = 256, kBlockCols = 256;
constexpr size_t kTileWidth = 32;  // batch rows: four AVX2 registers of sums, twice, and a block of x is 32 KB
constexpr size_t kTileStep = 8;

// Where a block's columns begin, and its rows, runs, entries and bytes of codes.
struct TileBlock {
  uint32_t col, row, run, entry, code;
};

// Rows with equally many entries, one after the other; both less one.
struct TileRun {
  uint8_t entries, rows;
};

struct TileLayout : FcLayout {
  bool nibbles;           // two codes a byte, the first in the low half; every row begins with a byte of its own
  uint32_t part_rows;     // of every part but the last
  uint32_t* row_of;       // kept_rows
  uint32_t* first_block;  // num_parts + 1
  TileBlock* blocks;      // one more than there are
  uint8_t* rows_of;       // of the blocks: the kept row less the part's first
  TileRun* runs;
  uint8_t* columns;  // less the block's
  uint8_t* codes;
};

// Makes a layout for a kernel of Input::kTile, or one for rows where W has so few weights that a tile of x costs more
// than it saves.
Status MakeTileLayout(const PackedView& packed, const FcKernel* kernel, FcLayout** out);
uint32_t TileSplit(const FcLayout* layout, uint32_t share, uint32_t shares);
void TileBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx);

// y[b * y_stride + row_of[i]] = sums[i * stride + b]: a part's sums, clamped, go to their rows.
void StoreTile(const TileLayout& layout, uint32_t part, const float* sums, size_t stride, const RowBlock& rows);

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_TILE_H_
