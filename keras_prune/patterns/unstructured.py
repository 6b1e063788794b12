"""Single weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.patterns.base import Pattern


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

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values in the weights' shape."""
        return units.reshape(shape)
