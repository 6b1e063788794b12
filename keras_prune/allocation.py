"""Allocations: how a target for the whole model is shared between its layers. Pure NumPy."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_prune.registry import Value, lookup
from keras_prune.schedules import check_sparsity
from keras_prune.selection import kept_count, select_highest


def matches(key: str, path: str) -> bool:
    """Whether a name or regular expression means the weight at `path`.

    Args:
        key: a weight's path (``"dense/kernel"``), a part of it between slashes (``"dense"``, ``"encoder/dense"``),
            or a regular expression that matches the whole path or one of its parts.
        path: the weight's path in the model, such as ``"encoder/dense/kernel"``.
    """
    if f"/{key}/" in f"/{path}/":
        return True
    try:
        return any(re.fullmatch(key, text) for text in (path, *path.split("/")))
    except re.error as error:
        raise ValueError(f"layers: expected a layer name or a regular expression, got {key!r}: {error}") from error


def check_keys(keys: Iterable[str], paths: Iterable[str], what: str) -> None:
    """Raises ValueError if a key means none of the paths, and lists them."""
    paths = list(paths)
    unknown = [key for key in keys if not any(matches(key, path) for path in paths)]
    if unknown:
        raise ValueError(
            f"{what}: expected names of prunable weights or their layers, or regular expressions that match them; "
            f"got {', '.join(map(repr, unknown))}; this model has: {', '.join(paths)}"
        )


class Allocation(Value):
    """Base of allocations."""

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Shares a target between layers.

        Args:
            scores: each weight's path -> scores, any shape; computed when first asked for.
            sparsity: s(t), the target for all weights together at this step, in [0, 1).
            final_sparsity: s_final, the schedule's last target, in [0, 1).

        Returns:
            Each weight's path -> its sparsity, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(scores, sparsity, final_sparsity)")


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


@dataclasses.dataclass(frozen=True)
class Global(Allocation):
    """One threshold for all layers: the highest scores of the whole model are kept, wherever they are.

    Exactly ``round(size * (1 - s(t)))`` weights are kept; of equal scores those that come first, in the order of the
    layers and then row-major. A layer whose scores are all low can lose every weight.

    Example:
        >>> import numpy as np
        >>> Global()({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, 0.5, 0.5)
        {'a': 1.0, 'b': 0.0}
    """

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The fraction of each layer below the common threshold."""
        del final_sparsity
        names = list(scores)
        flat = [np.asarray(scores[name], np.float32).reshape(-1) for name in names]
        keep = select_highest(np.concatenate(flat), kept_count(sum(map(len, flat)), sparsity))
        parts = np.split(keep, np.cumsum([len(part) for part in flat])[:-1])
        return {name: 1.0 - np.count_nonzero(part) / len(part) for name, part in zip(names, parts, strict=True)}


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
        for key, sparsity in self.sparsities.items():
            check_sparsity(f"PerLayer[{key!r}]", sparsity)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {"sparsities": dict(self.sparsities)}

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Each layer's share of its own final sparsity."""
        check_keys(self.sparsities, scores, "PerLayer")
        progress = min(1.0, sparsity / final_sparsity) if final_sparsity > 0 else 1.0

        def target(path: str) -> float:
            found = (value for key, value in self.sparsities.items() if matches(key, path))
            final = next(found, None)
            return sparsity if final is None else final * progress

        return {path: target(path) for path in scores}


def get(identifier: Any) -> Allocation:
    """An allocation from its name, class, configuration, or itself; a dict of sparsities stands for `PerLayer`."""
    if isinstance(identifier, dict) and "class_name" not in identifier:
        return PerLayer(identifier)
    allocation = lookup(identifier, (Uniform, Global, PerLayer), "allocation")
    if not isinstance(allocation, Allocation):
        raise TypeError(f"allocation: expected a keras_prune allocation, its name, or a dict, got {allocation!r}")
    return allocation
