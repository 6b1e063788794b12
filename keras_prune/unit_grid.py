"""Units of a matrix: blocks of weights that are kept or pruned together, numbered in row-major order. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

_CHUNK = 1 << 20  # weights whose indices are made at once: bounds the temporary memory to some 10 MB


@dataclasses.dataclass(frozen=True)
class UnitGrid:
    """A (rows, cols) matrix cut into units of block_rows x block_cols weights, smaller at the last row and column.

    Attributes:
        rows: rows of the matrix.
        cols: columns of the matrix.
        block_rows: rows of a unit, 1 to rows.
        block_cols: columns of a unit, 1 to cols.
    """

    rows: int
    cols: int
    block_rows: int = 1
    block_cols: int = 1

    @classmethod
    def of(cls, shape: tuple[int, ...], block: tuple[int, int]) -> UnitGrid:
        """The grid of a matrix of this shape; a block larger than the matrix is cut to it."""
        rows, cols = shape
        return cls(rows, cols, min(block[0], rows), min(block[1], cols))

    @property
    def units_down(self) -> int:
        """Units in a column of units."""
        return -(-self.rows // self.block_rows)

    @property
    def units_across(self) -> int:
        """Units in a row of units."""
        return -(-self.cols // self.block_cols)

    @property
    def num_units(self) -> int:
        """All units."""
        return self.units_down * self.units_across

    def kept(self, mask: np.ndarray) -> np.ndarray:
        """Units with a kept weight, (num_units,) bool, of a (rows, cols) bool mask of kept weights."""
        for axis, block in enumerate((self.block_rows, self.block_cols)):
            if block > 1:
                lines = np.moveaxis(mask, axis, 0)
                merged = lines[::block].copy()
                for offset in range(1, block):
                    part = lines[offset::block]
                    merged[: len(part)] |= part
                mask = np.moveaxis(merged, 0, axis)
        return np.ascontiguousarray(mask).reshape(-1)

    def num_weights(self, units: np.ndarray) -> int:
        """How many weights the units hold, (n,) int64 numbers of units."""
        heights = np.minimum(self.block_rows, self.rows - units // self.units_across * self.block_rows)
        widths = np.minimum(self.block_cols, self.cols - units % self.units_across * self.block_cols)
        return int((heights * widths).sum())

    def weights(self, units: np.ndarray) -> Iterator[np.ndarray]:
        """The flat indices of the units' weights, unit after unit, row-major within each, in chunks.

        Args:
            units: (n,) int64, numbers of units.

        Yields:
            (m,) int64.
        """
        if self.block_rows == self.block_cols == 1:
            yield units
            return
        step = _CHUNK // (self.block_rows * self.block_cols)
        for start in range(0, len(units), max(1, step)):
            if step > 0:
                yield self._weights_of(units[start : start + step], 0, self.block_rows)
                continue
            lines = max(1, _CHUNK // self.block_cols)  # a large unit, in bands of some lines
            for first in range(0, self.block_rows, lines):
                yield self._weights_of(units[start : start + 1], first, min(first + lines, self.block_rows))

    def _weights_of(self, units: np.ndarray, first: int, last: int) -> np.ndarray:
        """Indices of the weights in the units' rows from ``first`` on, up to ``last``."""
        rows = (units // self.units_across * self.block_rows)[:, None, None] + np.arange(first, last)[:, None]
        cols = (units % self.units_across * self.block_cols)[:, None, None] + np.arange(self.block_cols)
        return (rows * self.cols + cols)[(rows < self.rows) & (cols < self.cols)]
