"""Some layers stay dense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_prune.allocation.base import Allocation, Some, check_keys, matches, shapes_of
from keras_prune.allocation.common import Global
from keras_prune.allocation.erk import ERK
from keras_prune.allocation.from_sensitivity import FromSensitivity
from keras_prune.allocation.per_layer import PerLayer
from keras_prune.allocation.quality import QualityParameter
from keras_prune.allocation.uniform import Uniform
from keras_prune.registry import lookup


@dataclasses.dataclass(frozen=True)
class Exempt(Allocation):
    """Leaves the first, the last, or named layers dense, and shares between the others as another allocation does.

    The first layer sees the input and is small, the last makes the output: both often cost more accuracy than they
    save. First and last are those of the weights that are pruned, in the order in which the model has them; a layer of
    several weights (a recurrent one) is exempt as a whole; of one that is made of layers (attention, Bidirectional)
    only the first or the last of these is: name it in `layers`.

    Args:
        allocation: how the others share: an allocation, its name, or a dict of sparsities.
        first: whether the first layer is exempt.
        last: whether the last layer is exempt.
        layers: names or regular expressions of more layers, as in `PerLayer`.
        compensate: False: the others have the target sparsity, so that the whole has less. True: the others are pruned
            more, so that the whole has the target.

    Raises:
        ValueError: (when used) no layer is left, a name that the model does not have, or a target that the others
            cannot make up for.

    Example:
        >>> import numpy as np
        >>> Exempt("uniform", last=False)({"a/kernel": np.ones(2), "b/kernel": np.ones(8)}, 0.5, 0.8)
        {'a/kernel': 0.0, 'b/kernel': 0.5}

    Gale, Elsen and Hooker 2019, "The State of Sparsity in Deep Neural Networks" (https://arxiv.org/abs/1902.09574).
    """

    allocation: Any = "uniform"
    _: dataclasses.KW_ONLY
    first: bool = True
    last: bool = True
    layers: Iterable[str] = ()
    compensate: bool = False

    def __post_init__(self) -> None:
        inner = self.allocation
        if isinstance(inner, dict) and "class_name" not in inner:
            inner = PerLayer(inner)
        inner = lookup(inner, (Uniform, Global, PerLayer, ERK, FromSensitivity, QualityParameter), "allocation")
        if not isinstance(inner, Allocation):
            raise TypeError(f"Exempt.allocation: expected an allocation or its name, got {self.allocation!r}")
        object.__setattr__(self, "allocation", inner)
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        inner = {"class_name": type(self.allocation).__name__, "config": self.allocation.get_config()}
        return {**super().get_config(), "allocation": inner, "layers": list(self.layers)}

    def check_criterion(self, criterion: Any) -> None:
        """As the allocation of the others does."""
        self.allocation.check_criterion(criterion)

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """0 for the exempt layers, and what the other allocation says."""
        paths = list(scores)
        exempt = self._exempt(paths)
        others = [path for path in paths if path not in exempt]
        if not others:
            raise ValueError(f"Exempt: expected a layer that is pruned, got all exempt: {', '.join(paths)}")
        factor = self._factor(shapes_of(scores), others, final_sparsity) if self.compensate else 1.0
        shared = self.allocation(Some(scores, others), sparsity * factor, final_sparsity * factor)
        return {path: shared.get(path, 0.0) for path in paths}

    def _exempt(self, paths: list[str]) -> set[str]:
        check_keys(self.layers, paths, "Exempt")
        ends = [_layer(paths[0])] * self.first + [_layer(paths[-1])] * self.last
        return {path for path in paths if _layer(path) in ends or any(matches(key, path) for key in self.layers)}

    def _factor(self, shapes: Mapping[str, tuple[int, ...]], others: list[str], final_sparsity: float) -> float:
        size = sum(map(math.prod, shapes.values()))
        rest = sum(math.prod(shapes[path]) for path in others)
        if final_sparsity * size >= rest:
            raise ValueError(
                f"Exempt: expected a final sparsity below {rest / size:.4f}, the share of the layers that are not "
                f"exempt, got {final_sparsity}; exempt fewer layers, or take compensate=False"
            )
        return size / rest


def _layer(path: str) -> str:
    """The layer's part of a weight's path."""
    return path.rpartition("/")[0] or path
