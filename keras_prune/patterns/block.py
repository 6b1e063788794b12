"""Blocks of neighbouring inputs and outputs."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.patterns.base import Pattern, check_pooling, is_count


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
        if len(size) != 2 or not all(is_count(n) for n in size):
            raise ValueError(
                f"Block.size: expected (rows, cols), two whole numbers >= 1, such as Block((4, 1)), got {self.size!r}"
            )
        object.__setattr__(self, "size", size)
        check_pooling("Block", self.pooling)

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The blocks' scores, by kernel position, then inputs, then outputs."""
        if scores.ndim < 2:
            raise ValueError(f"{self!r}: expected a weight of two dimensions or more, got shape {scores.shape}")
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
