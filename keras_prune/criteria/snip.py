"""Connections to which the loss is least sensitive, before training."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_prune.criteria.base import Criterion, pruned_last


@dataclasses.dataclass(frozen=True)
class SNIP(Criterion):
    """``score = |mean over batches of w * dC/dw|``: how much the loss depends on the connection.

    To prune before training: used once, on weights as they were initialized, ``prune(model, 0.9, criterion="snip",
    allocation="global", data=...)``; then train with the masks. The paper divides by the sum of the scores over the
    whole model, which changes no order and is left out. Unlike in `Taylor`, batches of opposite sign cancel: many
    batches act as one large batch. Pruned weights have the lowest scores, as they are zero.

    Example:
        >>> import numpy as np
        >>> SNIP()(np.array([2.0, -1.0]), np.array([-0.5, 3.0])).tolist()
        [0.5, 3.0]

    Lee, Ajanthan and Torr 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity"
    (https://arxiv.org/abs/1810.02340).
    """

    gathers: ClassVar[bool] = True

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``w * dC/dw``, with its sign."""
        return weights * gradient

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """The absolute value of what was gathered, same shape."""
        return pruned_last(np.abs(self.need(statistic)), weights)
