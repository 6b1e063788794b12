"""Units that batch normalization scales down matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class BatchNormScale(UnitCriterion):
    """``score = |gamma|`` of the batch normalization behind the unit, for units.

    The paper trains with an l1 penalty on gamma, ``BatchNormalization(gamma_regularizer="l1")``, so that many become
    small. Where several normalizations stand behind a unit (the branches that feed one channel of a residual sum) it is
    the mean of their ``|gamma|``.

    Raises:
        ValueError: (when used) units without a batch normalization that has a scale.

    Example:
        >>> import numpy as np
        >>> BatchNormScale().score_units([], [np.array([[0.5], [-2.0]])]).tolist()
        [0.5, 2.0]

    Liu, Li, Shen, Huang, Yan and Zhang 2017, "Learning Efficient Convolutional Networks through Network Slimming"
    (https://arxiv.org/abs/1708.06519).
    """

    def score_units(self, kernels: Sequence[np.ndarray], scales: Sequence[np.ndarray]) -> np.ndarray:
        """The mean of the units' absolute scales, (units,), float32."""
        del kernels
        if not scales:
            raise ValueError(
                "BatchNormScale: expected a BatchNormalization with scale=True behind each layer to prune, got none"
            )
        return np.mean([np.abs(scale).mean(axis=1) for scale in scales], axis=0).astype(np.float32)
