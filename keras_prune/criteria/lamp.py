"""Weights that are small beside the larger ones of their layer matter least."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class LAMP(Criterion):
    """``score(w) = w^2 / sum of v^2 over w itself and all larger weights v of its layer``. For ``allocation="global"``.

    The largest weight of each layer has the score 1, so that one common threshold empties no layer, and layers with
    few large weights are spared: it chooses the layers' sparsities without hyperparameters. Within a layer the order
    is that of the magnitude, so with any other allocation the masks are those of `Magnitude`. Of equal weights the
    first counts as the largest.

    Example:
        >>> import numpy as np
        >>> LAMP()(np.array([1.0, -3.0, 2.0])).round(3).tolist()
        [0.071, 1.0, 0.308]

    Lee, Park, Mo, Ahn and Shin 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning"
    (https://arxiv.org/abs/2010.07611).
    """

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """The scores in [0, 1], same shape, float64: float32 could not tell apart the small ones of a large layer."""
        del statistic
        squares = np.square(weights.reshape(-1), dtype=np.float64)
        order = _descending(weights.reshape(-1))
        descending = squares[order]
        total = np.cumsum(descending)
        scores = np.empty_like(squares)
        scores[order] = descending / np.where(total > 0, total, 1.0)
        return scores.reshape(weights.shape)


def _descending(weights: np.ndarray) -> np.ndarray:
    """The order from the largest magnitude to the smallest; of equal ones the first comes first."""
    if weights.dtype != np.float32:
        return np.argsort(-np.abs(weights), kind="stable")
    # The bits of magnitudes sort as whole numbers do, and with the position below them a plain sort keeps ties in
    # order: several times faster than a stable one of floats.
    bits = np.abs(weights).view(np.uint32)
    keys = (np.uint32(0xFFFFFFFF) - bits).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(weights), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
