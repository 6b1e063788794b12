"""Weights that are small for their layer matter least."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class StandardizedMagnitude(Criterion):
    """``score = |w| / s.d. of the layer's weights``: magnitude, counted in the layer's standard deviations.

    Han prunes where ``|w| < q * s.d.`` with a **quality parameter** q. In these scores that is ``score < q``, so that

    - ``allocation=QualityParameter(q)``, or one q for each layer, prunes exactly as he does, and q sets the sparsity;
    - ``allocation="global"`` finds the one q for all layers that meets the schedule's sparsity.

    Within one layer the order is that of the magnitude, so with any other allocation the masks are those of
    `Magnitude`. The deviation is taken over all weights of the layer as they are, zeros included: it falls while
    weights are pruned (of normal weights to two thirds when 90 % are gone), so that a threshold does not run away over
    several updates. Where all weights are equal it is 0, and nothing lies below any threshold: scores are 1e30, of
    zeros 0.

    Example:
        >>> import numpy as np
        >>> StandardizedMagnitude()(np.array([-2.0, 2.0, 6.0, -6.0])).round(3).tolist()
        [0.447, 0.447, 1.342, 1.342]

    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks"
    (https://arxiv.org/abs/1506.02626), section 3.
    """

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Absolute values over the standard deviation, same shape and dtype."""
        del statistic
        deviation = standard_deviation(weights)
        if deviation == 0:
            return np.where(weights == 0, 0, 1e30).astype(weights.dtype)
        return np.abs(weights) / weights.dtype.type(deviation)


def standard_deviation(weights: np.ndarray) -> float:
    """The standard deviation of a layer's weights, that by which Han's quality parameter is multiplied.

    ``sqrt(mean((w - mean(w)) ** 2))`` over all weights, zeros included.

    Args:
        weights: any shape, float.

    Returns:
        The deviation, >= 0.
    """
    deviation = float(weights.std(dtype=np.float64))
    return 0.0 if weights.min() == weights.max() else deviation  # not what the mean's rounding leaves
