"""Equal counts in equal parts of each row."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.kernel_axes import OutputAxes, from_rows, standardize_axes, to_rows
from keras_prune.patterns.base import Pattern, is_count
from keras_prune.selection import kept_count, select_highest_of_rows


@dataclasses.dataclass(frozen=True)
class Balanced(Pattern):
    """Exactly K weights kept of each `block` consecutive inputs of each output, in the packed order.

    ``K = round(block * (1 - sparsity))``. Rows of equal length need no padding in the kernels' compute layout, which
    makes this the fastest pattern of single weights. The last block of a row, of r weights, keeps
    ``round(r * (1 - sparsity))``, at least one, in all rows alike. The sparsity is met as closely as whole numbers K
    allow: large blocks come closer.

    Args:
        block: weights in a block, >= 2; None: the whole row (all inputs of an output), so that all rows are equal.
        output_axes: the kernel's axes that count outputs, as in `NByM`.

    Raises:
        ValueError: a block below 2, or (when used) a sparsity at which a block would keep none.

    Example:
        >>> import numpy as np
        >>> Balanced().keep(np.array([[4.0, 9.0], [1.0, 7.0], [3.0, 8.0]]), 0.67).tolist()
        [[1, 1], [0, 0], [0, 0]]

    Cao et al. 2019, "Efficient and Effective Sparse LSTM on FPGA with Bank-Balanced Sparsity"
    (https://doi.org/10.1145/3289602.3293898).
    """

    block: int | None = None
    output_axes: OutputAxes | None = None

    def __post_init__(self) -> None:
        if self.block is not None and not (is_count(self.block) and self.block >= 2):
            raise ValueError(
                f"Balanced.block: expected a whole number of weights >= 2, or None for rows, got {self.block!r}"
            )
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores in row-major order."""
        return scores.reshape(-1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values in the weights' shape."""
        return units.reshape(shape)

    @property
    def max_sparsity(self) -> float:
        """One weight in each block."""
        return 1.0 if self.block is None else 1 - 1 / self.block

    def keep(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Marks the K highest of each block."""
        if sparsity != 1.0:  # a layer that a common threshold empties
            self.check_sparsity(sparsity)
        rows = to_rows(scores, self.output_axes)
        size = rows.shape[1]
        block = self.block or size
        full, mask = size // block * block, np.empty(rows.shape, bool)
        whole = rows[:, :full].reshape(-1, block)
        mask[:, :full] = select_highest_of_rows(whole, kept_count(block, sparsity)).reshape(len(rows), full)
        if full < size:
            mask[:, full:] = select_highest_of_rows(rows[:, full:], kept_count(size - full, sparsity))
        return np.ascontiguousarray(from_rows(mask.view(np.uint8), scores.shape, self.output_axes))
