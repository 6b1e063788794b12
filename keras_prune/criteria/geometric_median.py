"""Units that others can stand for matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class GeometricMedian(UnitCriterion):
    """``score(i) = sum over the units j of the group of ||w_i - w_j||_2``, for units.

    Units near the geometric median of their group are the ones the others can replace; small ones far from it stay.
    ``w_i`` is the vector of all weights that make unit i: where several layers feed one channel, as in residual
    networks, those of all these layers.

    Example:
        >>> import numpy as np
        >>> filters = np.array([[1.0, 0.0], [4.0, 4.0], [7.0, 8.0]])  # three units of two weights
        >>> GeometricMedian().score_units([filters], []).tolist()
        [15.0, 10.0, 15.0]

    He, Liu, Wang, Hu and Yang 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration" (https://arxiv.org/abs/1811.00250).
    """

    def score_units(self, kernels: Sequence[np.ndarray], scales: Sequence[np.ndarray]) -> np.ndarray:
        """Sums of distances to the units that are not zero, (units,), float32; units that are zero were pruned."""
        del scales
        alive = np.any([kernel.any(axis=1) for kernel in kernels], axis=0)
        squared = sum(_squared_distances(kernel.astype(np.float64), alive) for kernel in kernels)
        return np.sqrt(squared).sum(axis=1).astype(np.float32)


def _squared_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From each row to each of the others, (rows, others), float64, in which little is lost of ``a^2 - 2ab + b^2``."""
    chosen = rows[others]
    squares = np.square(rows).sum(axis=1)
    return (squares[:, None] - 2 * (rows @ chosen.T) + squares[others]).clip(min=0)
