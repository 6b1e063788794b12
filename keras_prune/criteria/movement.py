"""Weights that training moves towards zero matter least."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class Movement(Criterion):
    """``score = mean over all steps of -w * dC/dw``: positive where training moves the weight away from zero.

    A large weight that shrinks is pruned, a small one that grows is kept: for fine-tuning pre-trained models. The sum
    goes on over all steps since training began, also past changes of masks; dividing it by the number of steps changes
    no order. A pruned weight is zero and adds nothing, so its score stays: it comes back, at zero, only where those of
    others fall below.

    Example:
        >>> import numpy as np
        >>> Movement()(np.array([2.0, -1.0]), np.array([-0.5, 3.0])).tolist()
        [-0.5, 3.0]

    Sanh, Wolf and Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (https://arxiv.org/abs/2005.07683).
    """

    gathers: ClassVar[bool] = True
    resets: ClassVar[bool] = False
    revives: ClassVar[bool] = True

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``-w * dC/dw``."""
        return -weights * gradient

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """What was gathered, same shape."""
        del weights
        return self.need(statistic)
