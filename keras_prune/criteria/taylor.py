"""Weights whose removal would change the loss least, to first order."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_prune.criteria.base import Criterion, pruned_last


@dataclasses.dataclass(frozen=True)
class Taylor(Criterion):
    """``score = mean over steps of |w * dC/dw|``: the change of the loss if w were set to zero, to first order.

    The mean is over the training steps since the last change of masks, each with the gradient of its batch. The score
    belongs to whatever the pattern prunes; for blocks and channels take their sum: ``Channel("sum")``.
    Pruned weights have the lowest scores, as they are zero.

    Example:
        >>> import numpy as np
        >>> Taylor()(np.array([2.0, -1.0]), np.array([0.5, 3.0])).tolist()
        [0.5, 3.0]

    Molchanov, Tyree, Karras, Aila and Kautz 2016, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), equation 7.
    """

    gathers: ClassVar[bool] = True

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``|w * dC/dw|``."""
        return abs(weights * gradient)

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """What was gathered, same shape."""
        return pruned_last(self.need(statistic), weights)
