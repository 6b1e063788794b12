"""Whole outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_prune.kernel_axes import OutputAxes, from_rows, standardize_axes, to_rows
from keras_prune.patterns.base import Pattern, check_pooling


@dataclasses.dataclass(frozen=True)
class Channel(Pattern):
    """All weights of one output (a unit of a dense layer, a filter of a convolution) are kept or pruned as one.

    This makes masks only: the shapes stay. What goes with a pruned channel is masked with it: its bias, and its gamma
    and beta in a batch normalization right behind the layer.

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
    output_axes: OutputAxes | None = None

    def __post_init__(self) -> None:
        check_pooling("Channel", self.pooling)
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The channels' scores, in the order of the output axes."""
        reduce: Callable[..., np.ndarray] = getattr(np, self.pooling)
        return reduce(to_rows(scores, self.output_axes), axis=1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Each channel's value on all its weights."""
        rows = np.broadcast_to(units[:, np.newaxis], (len(units), math.prod(shape) // len(units)))
        return np.ascontiguousarray(from_rows(rows, shape, self.output_axes))
