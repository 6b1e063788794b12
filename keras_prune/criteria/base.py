"""What a criterion is."""

from __future__ import annotations

import numpy as np

from keras_prune.registry import Value


class Criterion(Value):
    """Base of criteria: says how much each weight matters.

    A plain function from weights to scores serves as well; a class adds arguments and a name.
    """

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Scores the weights of one layer.

        Args:
            weights: any shape, float; pruned weights are exactly zero.

        Returns:
            Scores of the same shape, float, not NaN; weights with higher scores are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(weights)")
