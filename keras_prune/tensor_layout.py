"""The choice of a layout: how the kept weights of a matrix are found in the buffer, by bytes. NumPy only."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from keras_prune import entropy_coding, position_coding
from keras_prune.unit_grid import UnitGrid

BLOCK_SIDES = (1, 2, 4, 8, 16)  # tried by the encoder
MAX_BLOCK_SIDE = 65535  # 16 bits of the header
_BAND_ROWS, _BAND_COLS, _BANDS = 16, 4096, 64  # the sample that blocks are judged by: whole blocks, 4 M weights


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a matrix is stored.

    Attributes:
        positions: how kept units are found: "all", "gaps" or "bitmap".
        block: rows and columns of a unit.
        escape: of gaps, 1 to 255; else 0.
        coder: of the streams, as `entropy_coding.encode` takes it.
        lane_bits: of the streams, likewise.

    Raises:
        ValueError: the format has no such layout.
    """

    positions: str
    block: tuple[int, int] = (1, 1)
    escape: int = 0
    coder: str | None = None
    lane_bits: int | None = None

    def __post_init__(self) -> None:
        if self.positions not in ("all", "gaps", "bitmap"):
            raise ValueError(f"Layout: expected positions 'all', 'gaps' or 'bitmap', got {self.positions!r}")
        if self.escape not in (range(1, 256) if self.positions == "gaps" else range(1)):
            raise ValueError(f"Layout: expected escape from 1 to 255 for gaps and 0 for others, got {self.escape}")
        if not all(1 <= side <= MAX_BLOCK_SIDE for side in self.block):
            raise ValueError(f"Layout: expected sides of a block from 1 to {MAX_BLOCK_SIDE}, got {self.block}")


def best_layout(mask: np.ndarray, counts: np.ndarray, *, pruned_symbol: int, low_bytes: int) -> Layout:
    """The layout that needs the fewest bytes, time to decode being worth some (`entropy_coding.stream_cost`).

    Args:
        mask: (rows, cols) bool, the weights that are not pruned.
        counts: (256,) int64, how often each symbol occurs among them.
        pruned_symbol: the symbol of a pruned weight, where it has to be stored.
        low_bytes: bytes that a stored weight needs beside its symbol.

    Returns:
        The layout.
    """

    def value_cost(num_zeros: int) -> int:
        symbols = counts.copy()
        symbols[pruned_symbol] += num_zeros
        return entropy_coding.stream_cost(symbols) + low_bytes * int(symbols.sum())

    num_kept = int(counts.sum())
    candidates = [(value_cost(mask.size - num_kept), 0, Layout("all"))]
    for order, block in enumerate(dict.fromkeys([(1, 1), _likely_block(mask, counts, low_bytes)]), 1):
        grid = UnitGrid.of(mask.shape, block)
        kept = grid.kept(mask)
        stored = grid.num_weights(np.flatnonzero(kept)) if block != (1, 1) else num_kept
        values = value_cost(stored - num_kept)
        gap_cost, escape = position_coding.best_gaps(kept)
        candidates.append((values + gap_cost, order, Layout("gaps", block, escape)))
        candidates.append((values + position_coding.bitmap_cost(kept), order, Layout("bitmap", block)))
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def _bands(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of the mask, all of it where it is small."""
    starts = range(0, mask.shape[0], _BAND_ROWS)
    every = -(-len(starts) // _BANDS)
    for start in starts[::every]:
        yield mask[start : start + _BAND_ROWS, :_BAND_COLS]


def _entropy_bits(part: float, whole: float) -> float:
    """Bits that say which ``part`` of the ``whole`` it is, where each is as likely as the others."""
    share = part / whole if whole else 0.0
    if share in (0.0, 1.0):
        return 0.0
    return -whole * float(share * np.log2(share) + (1 - share) * np.log2(1 - share))


def _likely_block(mask: np.ndarray, counts: np.ndarray, low_bytes: int) -> tuple[int, int]:
    """The block that needs the fewest bits on a sample: those of the kept units and of the zeros in them."""
    sample = list(_bands(mask))
    num_kept = sum(int(np.count_nonzero(band)) for band in sample)
    if num_kept in (0, sum(band.size for band in sample)):
        return 1, 1  # nothing to group

    def bits(block: tuple[int, int]) -> float:
        units = kept_units = stored = 0
        for band in sample:
            grid = UnitGrid.of(band.shape, block)
            kept = np.flatnonzero(grid.kept(band))
            units, kept_units = units + grid.num_units, kept_units + len(kept)
            stored += grid.num_weights(kept)
        zeros = stored - num_kept
        return _entropy_bits(kept_units, units) + _entropy_bits(num_kept, stored) + 8 * low_bytes * zeros

    heights, widths = ([side for side in BLOCK_SIDES if side <= size] for size in mask.shape)
    return min(itertools.product(heights, widths), key=bits)
