"""Patterns: which weights are pruned together. Pure values."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune.registry import Value, lookup


class Pattern(Value):
    """Base of patterns: groups weights into units that are kept or pruned as one."""

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Scores of the weights, any shape -> scores of the units, (num_units,)."""
        raise NotImplementedError(f"{type(self).__name__} must define pool(scores)")

    def spread(self, unit_mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Mask of the units, (num_units,) uint8 -> mask of the weights, `shape` uint8."""
        raise NotImplementedError(f"{type(self).__name__} must define spread(unit_mask, shape)")


@dataclasses.dataclass(frozen=True)
class Unstructured(Pattern):
    """Each weight is kept or pruned by itself.

    Example:
        >>> import numpy as np
        >>> Unstructured().pool(np.array([[1.0, 2.0]])).tolist()
        [1.0, 2.0]
    """

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores in row-major order."""
        return scores.reshape(-1)

    def spread(self, unit_mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The mask in the weights' shape."""
        return unit_mask.reshape(shape)


def get(identifier: Any) -> Pattern:
    """A pattern from its name, class, configuration, or itself; raises if it is none."""
    pattern = lookup(identifier, (Unstructured,), "pattern")
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a keras_prune pattern or its name, got {pattern!r}")
    return pattern
