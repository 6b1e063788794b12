"""Weights whose removal would change the loss least: the squared first-order estimate."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_prune.criteria.base import Criterion, pruned_last


@dataclasses.dataclass(frozen=True)
class TaylorFO(Criterion):
    """``score = mean over steps of (w * dC/dw)^2``: the squared change of the loss if w were zero, to first order.

    Squared, few steps of large effect weigh more than in `Taylor`. The mean is over the training steps since the last
    change of masks. For blocks and channels take the sum over their weights, as the paper does: ``Channel("sum")``.
    Pruned weights have the lowest scores, as they are zero.

    Example:
        >>> import numpy as np
        >>> TaylorFO()(np.array([2.0, -1.0]), np.array([0.25, 9.0])).tolist()
        [0.25, 9.0]

    Molchanov, Mallya, Tyree, Frosio and Kautz 2019, "Importance Estimation for Neural Network Pruning"
    (https://arxiv.org/abs/1906.10771), equation 8.
    """

    gathers: ClassVar[bool] = True

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``(w * dC/dw)^2``."""
        change = weights * gradient
        return change * change

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """What was gathered, same shape."""
        return pruned_last(self.need(statistic), weights)
