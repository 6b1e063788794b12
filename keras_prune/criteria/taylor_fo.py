"""Weights and units whose removal would change the loss least: the squared first-order estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_prune.criteria.base import Criterion, pruned_last


@dataclasses.dataclass(frozen=True)
class TaylorFO(Criterion):
    """The squared change of the loss on removal, to first order: ``mean over steps of (sum of w * dC/dw)^2``.

    Squared, few steps of large effect weigh more than in `Taylor`. The mean is over the training steps since the last
    change of masks.

    - Units (``pattern=Channel()``): the sum is over the unit's weights before it is squared, and C is the loss of a
      batch. The weights are the gates behind the unit, ``(gamma * dC/dgamma + beta * dC/dbeta)^2``, as the paper does,
      where batch normalization has them: the kernels before a normalization do not change its output when they are
      scaled, so that their sum vanishes. Elsewhere ``(sum over examples and the map of dC/dz * z)^2``, z the unit's
      activation: what a gate would have, and equal to the sum over kernel and bias of a layer that is linear or has a
      ReLU. Units that have no activation of their own (attention heads): the sum over their kernels. The members of a
      unit (the layers that feed one channel of a residual sum) are added up after they are squared, as in `Taylor`.
    - Weights: ``score = mean over steps of (w * dC/dw)^2``; for blocks take the sum: ``Block(..., "sum")``.

    What is pruned has the lowest scores, as it is zero.

    Example:
        >>> import numpy as np
        >>> TaylorFO()(np.array([2.0, -1.0]), np.array([0.25, 9.0])).tolist()
        [0.25, 9.0]

    Molchanov, Mallya, Tyree, Frosio and Kautz 2019, "Importance Estimation for Neural Network Pruning"
    (https://arxiv.org/abs/1906.10771), equation 8 and section 3.2.
    """

    gathers: ClassVar[bool] = True
    observes: ClassVar[str | None] = "gates"
    combines: ClassVar[str] = "sum"

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """``sum over the map of dC/dz * z``, with its sign, (batch, units)."""
        return ops.sum(activation * gradient, axis=tuple(axes))

    def average(self, observed: Any) -> Any:
        """The square of the mean over the examples, which is that of the batch's loss, (units,)."""
        return ops.square(ops.mean(observed, axis=0))

    def average_gates(self, change: Any) -> Any:
        """``(sum of w * dC/dw)^2``."""
        return ops.square(change)

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``(w * dC/dw)^2``."""
        change = weights * gradient
        return change * change

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """What was gathered, same shape."""
        return pruned_last(self.need(statistic), weights)
