"""All layers alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_prune.allocation.base import Allocation


@dataclasses.dataclass(frozen=True)
class Uniform(Allocation):
    """Every layer has the target sparsity: ``s_l(t) = s(t)``.

    Example:
        >>> import numpy as np
        >>> Uniform()({"a": np.ones(2), "b": np.ones(3)}, 0.5, 0.8)
        {'a': 0.5, 'b': 0.5}
    """

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The target, for each layer."""
        del final_sparsity
        return dict.fromkeys(scores, sparsity)
