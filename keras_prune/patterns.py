"""Patterns: which weights are pruned together. Pure values.

The axes of a weight are those of a Keras kernel, (..., inputs, outputs). The **packed order** is the order in which a
packed file holds it: one row for each output, and in the row all its inputs, for a convolution those of the kernel's
first position first (see docs/format.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune.kernel_axes import OutputAxes, from_rows, standardize_axes, to_rows
from keras_prune.registry import Value, lookup
from keras_prune.selection import kept_count, select_highest, select_highest_of_rows

_POOLING = ("mean", "sum", "max")


class Pattern(Value):
    """Base of patterns: groups weights into units that are kept or pruned as one.

    A subclass defines `pool` and `spread`; one that is bound to exact counts in each part of the matrix also `keep`.
    """

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Scores of the weights, any shape -> scores of the units, (num_units,)."""
        raise NotImplementedError(f"{type(self).__name__} must define pool(scores)")

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values of the units, (num_units,) -> values of the weights, `shape`, such as a mask."""
        raise NotImplementedError(f"{type(self).__name__} must define spread(units, shape)")

    def keep(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Marks exactly ``round(num_units * (1 - sparsity))`` units with the highest scores, below 1 at least one.

        Args:
            scores: of the weights, any shape, float, not NaN; of equal units those that come first are kept.
            sparsity: fraction of units to prune, in [0, 1].

        Returns:
            Mask of the weights, same shape, uint8: 1 = kept, 0 = pruned.

        Raises:
            ValueError: a score is NaN, or the pattern cannot have this sparsity.
        """
        units = self.pool(scores)
        keep = select_highest(units, kept_count(len(units), sparsity))
        return self.spread(keep.view(np.uint8), scores.shape)

    @property
    def max_sparsity(self) -> float:
        """The highest sparsity that the pattern can have, in (0, 1]."""
        return 1.0

    def check_sparsity(self, sparsity: float) -> None:
        """Raises ValueError for a sparsity that the pattern cannot have."""
        if sparsity > self.max_sparsity + 1e-6:  # allocations compute sparsities in floating point
            raise ValueError(
                f"{self!r}: expected a sparsity up to {self.max_sparsity:g}, got {sparsity:g}; give this pattern at "
                f"most {self.max_sparsity:g} as its (final) sparsity, and an allocation that keeps each layer to it"
            )

    def share(self, scores: np.ndarray) -> np.ndarray:
        """Each weight's score as allocations compare it: that of its unit. Same shape."""
        return self.spread(self.pool(scores), scores.shape)


@dataclasses.dataclass(frozen=True)
class Unstructured(Pattern):
    """Each weight is kept or pruned by itself.

    Example:
        >>> import numpy as np
        >>> Unstructured().pool(np.array([[1.0, 2.0]])).tolist()
        [1.0, 2.0]
    """

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores in row-major order."""
        return scores.reshape(-1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values in the weights' shape."""
        return units.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Block(Pattern):
    """Blocks of ``rows x cols`` weights over the last two axes, (inputs, outputs), are kept or pruned as one.

    For a kernel of more axes (a convolution) the blocks lie in each kernel position by itself. Blocks at the edge hold
    what is there: a size that does not divide an axis leaves smaller blocks, which count as one unit each. Blocks are
    ordered row-major, kernel positions first.

    Args:
        size: (rows, cols): consecutive inputs, consecutive outputs; each >= 1.
        pooling: a block's score: the ``"mean"`` (as TFMOT's AVG), ``"sum"`` or ``"max"`` of its weights' scores. The
            mean is fair to the smaller blocks at the edge; the sum is what Taylor's papers add up.

    Raises:
        ValueError: a size below 1, an unknown pooling, or (when used) a weight of one dimension.

    Example:
        >>> import numpy as np
        >>> Block((2, 2)).keep(np.array([[9.0, 0.0, 1.0], [0.0, 0.0, 2.0]]), 0.5).tolist()
        [[1, 1, 0], [1, 1, 0]]

    Gray, Radford and Kingma 2017, "GPU Kernels for Block-Sparse Weights"; Narang, Undersander and Diamos 2017,
    "Block-Sparse Recurrent Neural Networks" (https://arxiv.org/abs/1711.02782).
    """

    size: tuple[int, int] = (4, 1)
    pooling: str = "mean"

    def __post_init__(self) -> None:
        size = tuple(self.size) if isinstance(self.size, (tuple, list)) else ()
        if len(size) != 2 or not all(_is_count(n) for n in size):
            raise ValueError(
                f"Block.size: expected (rows, cols), two whole numbers >= 1, such as Block((4, 1)), got {self.size!r}"
            )
        object.__setattr__(self, "size", size)
        _check_pooling("Block", self.pooling)

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The blocks' scores, by kernel position, then inputs, then outputs."""
        _check_rank(self, scores.shape)
        rows, cols = self.size
        parts = scores.reshape(-1, *scores.shape[-2:])
        reduce = np.maximum if self.pooling == "max" else np.add
        for axis, length in ((1, rows), (2, cols)):
            size = parts.shape[axis]
            starts = np.arange(0, size, length)
            parts = reduce.reduceat(parts, starts, axis=axis)
            if self.pooling == "mean":
                counts = np.diff(starts, append=size).astype(parts.dtype)
                parts = parts / counts.reshape((-1, 1) if axis == 1 else (-1,))
        return parts.reshape(-1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Each block's value on all its weights."""
        rows, cols = self.size
        num_inputs, num_outputs = shape[-2:]
        blocks = units.reshape(-1, -(-num_inputs // rows), -(-num_outputs // cols))
        blocks = blocks.repeat(rows, axis=1)[:, :num_inputs]
        return blocks.repeat(cols, axis=2)[:, :, :num_outputs].reshape(shape)


@dataclasses.dataclass(frozen=True)
class NByM(Pattern):
    """At most `n` kept of each `m` consecutive inputs of one output, in the packed order: ``NByM(2, 4)`` is 2:4.

    While the sparsity rises to ``1 - n / m`` the lowest of those weights are pruned that are not among the n highest
    of their group; at ``1 - n / m`` each group keeps exactly n. More cannot be asked of it: give this sparsity as the
    final one. The last group of a row, of r < m weights, keeps ``ceil(r * n / m)``.

    Where m divides a convolution's input channels, groups are TFMOT's: m input channels at one kernel position. Where
    it does not, as in a first convolution of 1, 2 or 3 channels, groups go on to the next position, while TFMOT pads
    the channels and then prunes little or nothing (tensorflow/model-optimization #1182).

    Args:
        n: kept in each group, >= 1.
        m: size of a group, > n.
        output_axes: the kernel's axes that count outputs: -1 as for `Dense` and convolutions; -2 for transposed
            convolutions; (-2, -1) for depthwise ones and attention's query, key and value.

    Raises:
        ValueError: n not in 1 .. m - 1, or (when used) a sparsity above 1 - n / m.

    Example:
        >>> import numpy as np
        >>> NByM(2, 4).keep(np.array([[4.0], [1.0], [3.0], [2.0]]), 0.5).ravel().tolist()
        [1, 0, 1, 0]

    Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
    (https://arxiv.org/abs/2102.04010).
    """

    n: int = 2
    m: int = 4
    output_axes: OutputAxes = -1

    def __post_init__(self) -> None:
        if not (_is_count(self.n) and _is_count(self.m) and self.n < self.m):
            raise ValueError(
                f"NByM: expected n kept of m, whole numbers with 1 <= n < m, such as NByM(2, 4), "
                f"got n={self.n!r} and m={self.m!r}"
            )
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores in row-major order; infinite for the n highest of each group."""
        rows = to_rows(scores, self.output_axes)
        full = rows.shape[1] // self.m * self.m
        protected = np.empty(rows.shape, bool)
        groups = rows[:, :full].reshape(-1, self.m)
        protected[:, :full] = select_highest_of_rows(groups, self.n).reshape(len(rows), full)
        rest = rows.shape[1] - full
        if rest:
            protected[:, full:] = select_highest_of_rows(rows[:, full:], -(-rest * self.n // self.m))
        infinite = scores.dtype.type(np.inf)
        return np.where(from_rows(protected, scores.shape, self.output_axes), infinite, scores).reshape(-1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values in the weights' shape."""
        return units.reshape(shape)

    @property
    def max_sparsity(self) -> float:
        """``1 - n / m``."""
        return 1 - self.n / self.m

    def keep(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Marks the n highest of each group, and of the others as many as the sparsity leaves."""
        self.check_sparsity(sparsity)
        units = self.pool(scores)
        protected = int(np.count_nonzero(units == np.inf))
        keep = select_highest(units, max(protected, kept_count(len(units), sparsity)))
        return self.spread(keep.view(np.uint8), scores.shape)


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
    output_axes: OutputAxes = -1

    def __post_init__(self) -> None:
        if self.block is not None and not (_is_count(self.block) and self.block >= 2):
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


@dataclasses.dataclass(frozen=True)
class Channel(Pattern):
    """All weights of one output (a unit of a dense layer, a filter of a convolution) are kept or pruned as one.

    This makes masks only: the shapes stay, and biases are not touched.

    Args:
        pooling: a channel's score: the ``"mean"``, ``"sum"`` or ``"max"`` of its weights' scores.
        output_axes: the kernel's axes that count outputs, as in `NByM`.

    Raises:
        ValueError: an unknown pooling, or (when used) a weight of one dimension.

    Example:
        >>> import numpy as np
        >>> Channel().keep(np.array([[4.0, 1.0], [0.0, 2.0]]), 0.5).tolist()
        [[1, 0], [1, 0]]

    Li et al. 2016, "Pruning Filters for Efficient ConvNets" (https://arxiv.org/abs/1608.08710).
    """

    pooling: str = "mean"
    output_axes: OutputAxes = -1

    def __post_init__(self) -> None:
        _check_pooling("Channel", self.pooling)
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The channels' scores, in the order of the output axes."""
        reduce: Callable[..., np.ndarray] = getattr(np, self.pooling)
        return reduce(to_rows(scores, self.output_axes), axis=1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Each channel's value on all its weights."""
        rows = np.broadcast_to(units[:, np.newaxis], (len(units), math.prod(shape) // len(units)))
        return np.ascontiguousarray(from_rows(rows, shape, self.output_axes))


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _check_pooling(name: str, pooling: Any) -> None:
    if pooling not in _POOLING:
        raise ValueError(f"{name}.pooling: expected one of {', '.join(map(repr, _POOLING))}, got {pooling!r}")


def _check_rank(pattern: Pattern, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(f"{pattern!r}: expected a weight of two dimensions or more, got shape {shape}")


def get(identifier: Any) -> Pattern:
    """A pattern from its name, class, configuration, or itself; raises if it is none."""
    pattern = lookup(identifier, (Unstructured, Block, NByM, Balanced, Channel), "pattern")
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a keras_prune pattern or its name, got {pattern!r}")
    return pattern
