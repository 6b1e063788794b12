"""Small weights matter least."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """``score = |w|``.

    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks"
    (https://arxiv.org/abs/1506.02626).

    Pruned weights are zero, so they have the lowest score and come back only when the target sparsity falls.

    Example:
        >>> import numpy as np
        >>> Magnitude()(np.array([-2.0, 1.0])).tolist()
        [2.0, 1.0]
    """

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Absolute values, same shape and dtype."""
        del statistic
        return np.abs(weights)
