"""What criteria have in common that score units alone, not single weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class UnitCriterion(Criterion):
    """Base of criteria that score channels, neurons and heads, and no single weights."""

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Raises ValueError: single weights have no score."""
        del statistic
        name = type(self).__name__
        raise ValueError(
            f"{name}: expected units (channels, neurons, heads) to score, got single weights of shape {weights.shape}; "
            f"give pattern=Channel() and a Sequential or functional model, or another criterion, such as 'magnitude'"
        )
