"""Units whose weights are small matter least: the mean of their squares."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class WeightNorm(Criterion):
    """``score = w^2``; of a unit the mean over its weights, the "minimum weight" of Molchanov et al.

    With single weights the masks are those of `Magnitude`. With channels the two differ: `Magnitude` is the mean of
    absolute values (the l1 norm), this is the mean of squares (the squared l2 norm), in which large weights count
    more, and which compares differently across layers after their scores are normalised.

    Example:
        >>> import numpy as np
        >>> WeightNorm()(np.array([-2.0, 1.0])).tolist()
        [4.0, 1.0]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2.2.
    """

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Squares, same shape and dtype."""
        del statistic
        return np.square(weights)
