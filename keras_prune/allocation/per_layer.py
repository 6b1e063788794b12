"""A sparsity for each layer by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.allocation.base import Allocation, check_keys, matches
from keras_prune.schedules import check_sparsity


@dataclasses.dataclass(frozen=True)
class PerLayer(Allocation):
    """A final sparsity for each layer by name; all layers reach theirs when the schedule reaches its own.

    ``s_l(t) = s_l * min(1, s(t) / s_final)`` for layers that are named, ``s_l(t) = s(t)`` for the others.

    Args:
        sparsities: a layer's name, a weight's path, or a regular expression -> final sparsity s_l in [0, 1); 0 leaves
            the layer dense. The first key that matches counts.

    Raises:
        ValueError: a sparsity outside [0, 1), or (when used) a name that the model does not have.

    Example:
        >>> import numpy as np
        >>> PerLayer({"a": 0.9})({"a/kernel": np.ones(2), "b/kernel": np.ones(2)}, 0.4, 0.8)
        {'a/kernel': 0.45, 'b/kernel': 0.4}
    """

    sparsities: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.sparsities, Mapping):
            raise TypeError(f"PerLayer: expected a dict of layer name -> sparsity, got {self.sparsities!r}")
        for key, sparsity in self.sparsities.items():
            check_sparsity(f"PerLayer[{key!r}]", sparsity)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {"sparsities": dict(self.sparsities)}

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Each layer's share of its own final sparsity."""
        check_keys(self.sparsities, scores, "PerLayer")
        done = progress(sparsity, final_sparsity)

        def target(path: str) -> float:
            found = (value for key, value in self.sparsities.items() if matches(key, path))
            final = next(found, None)
            return sparsity if final is None else final * done

        return {path: target(path) for path in scores}


def progress(sparsity: float, final_sparsity: float) -> float:
    """How far the schedule has come: ``min(1, s(t) / s_final)``."""
    return min(1.0, sparsity / final_sparsity) if final_sparsity > 0 else 1.0
