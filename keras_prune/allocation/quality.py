"""Han's quality parameter: a threshold in standard deviations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.allocation.base import Allocation, check_keys, matches
from keras_prune.allocation.per_layer import progress
from keras_prune.criteria import Criterion, StandardizedMagnitude


@dataclasses.dataclass(frozen=True)
class QualityParameter(Allocation):
    """Prunes where ``|w| < q * s.d. of the layer's weights``: q sets the sparsity, not the schedule.

    Use it with ``criterion="standardized_magnitude"``, whose scores count in standard deviations: a layer's final
    sparsity is the fraction of its scores below q. The schedule says how far it has come: the layer's sparsity is
    ``s(t) / s_final`` of that. At least one weight of each layer is kept.

    Args:
        qualities: q for all layers, >= 0; or a layer's name, a weight's path, or a regular expression -> q. The first
            key that matches counts; each layer must have one (0 leaves it dense).

    Raises:
        ValueError: a negative q, or (when used) a name that the model does not have, a layer without a q, or a
            criterion that counts in other units.

    Example:
        >>> import numpy as np
        >>> from keras_prune.criteria import StandardizedMagnitude
        >>> scores = StandardizedMagnitude()(np.array([-3.0, 3.0, 1.0, -1.0, 0.5, -0.5]))
        >>> round(QualityParameter(0.8)({"dense/kernel": scores}, 0.5, 0.5)["dense/kernel"], 3)
        0.667

    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks"
    (https://arxiv.org/abs/1506.02626), section 3.
    """

    qualities: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        given = self.qualities if isinstance(self.qualities, Mapping) else {"": self.qualities}
        for key, quality in given.items():
            if isinstance(quality, bool) or not isinstance(quality, (int, float)) or not 0 <= quality < math.inf:
                what = f"QualityParameter[{key!r}]" if key else "QualityParameter"
                raise ValueError(f"{what}: expected a number of standard deviations >= 0, got {quality!r}")

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {"qualities": dict(self.qualities) if isinstance(self.qualities, Mapping) else self.qualities}

    def check_criterion(self, criterion: Any) -> None:
        """Raises ValueError for a known criterion other than `StandardizedMagnitude`."""
        if isinstance(criterion, Criterion) and not isinstance(criterion, StandardizedMagnitude):
            raise ValueError(
                f"QualityParameter: expected scores in standard deviations, criterion='standardized_magnitude' (or a "
                f"function of your own), got criterion={criterion!r}"
            )

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The fraction of each layer below its threshold, as far as the schedule has come."""
        done = progress(sparsity, final_sparsity)
        return {path: done * _fraction_below(scores[path], q) for path, q in self._by_path(scores).items()}

    def _by_path(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        if not isinstance(self.qualities, Mapping):
            return dict.fromkeys(scores, self.qualities)
        check_keys(self.qualities, scores, "QualityParameter")
        found = {path: [q for key, q in self.qualities.items() if matches(key, path)] for path in scores}
        without = [path for path, qualities in found.items() if not qualities]
        if without:
            raise ValueError(
                f"QualityParameter: expected a q for each layer that is pruned, got none for {', '.join(without)}; "
                "give '.*' as the last key for all others, or leave them out by layers=..."
            )
        return {path: qualities[0] for path, qualities in found.items()}


def _fraction_below(scores: np.ndarray, threshold: float) -> float:
    if not scores.any():  # a layer of zeros, not trained yet: nothing lies below any multiple of its deviation, 0
        return 0.0
    below = int(np.count_nonzero(scores < threshold))
    return min(below, scores.size - 1) / scores.size
