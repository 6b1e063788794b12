"""Optimal brain damage: weights whose removal would change the loss least, to second order."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_prune.criteria.base import Criterion, pruned_last


@dataclasses.dataclass(frozen=True)
class OBD(Criterion):
    """``score = h * w^2 / 2``, where ``h = mean over steps of (dC/dw)^2`` estimates the Hessian's diagonal.

    At a minimum the first order vanishes, and the loss rises by ``h w^2 / 2`` if w is set to zero. The squared gradient
    (the empirical Fisher information) stands for the second derivative. The mean is over the training steps since the
    last change of masks; gradients are of whole batches, which scales all scores alike. Pruned weights have the lowest
    scores, as they are zero. With a diagonal Hessian the loss rises by the sum over a unit's weights if all are set to
    zero: ``Channel("sum")``.

    Example:
        >>> import numpy as np
        >>> OBD()(np.array([2.0, -1.0]), np.array([0.25, 9.0])).tolist()
        [0.5, 4.5]

    LeCun, Denker and Solla 1990, "Optimal Brain Damage"
    (https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html).
    """

    gathers: ClassVar[bool] = True

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``(dC/dw)^2``."""
        del weights
        return gradient * gradient

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """``h * w^2 / 2``, same shape."""
        return pruned_last(self.need(statistic) * np.square(weights) / 2, weights)
