"""What an allocation is, and how it names layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_prune.names import check_keys, matches
from keras_prune.registry import Value

__all__ = ["Allocation", "Some", "check_keys", "known_sparsities", "matches", "shapes_of"]


class Allocation(Value):
    """Base of allocations."""

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Shares a target between layers.

        Args:
            scores: each weight's path -> scores, any shape; computed when asked for, so ask for `shapes_of` them where
                shapes will do.
            sparsity: s(t), the target for all weights together at this step, in [0, 1).
            final_sparsity: s_final, the schedule's last target, in [0, 1).

        Returns:
            Each weight's path -> its sparsity, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(scores, sparsity, final_sparsity)")

    def check_criterion(self, criterion: Any) -> None:
        """Raises ValueError for a criterion whose scores this allocation cannot use."""
        del criterion


def shapes_of(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The weights' shapes by path, without computing scores where the mapping knows them (attribute ``shapes``)."""
    shapes = getattr(scores, "shapes", None)
    return {path: np.shape(scores[path]) for path in scores} if shapes is None else dict(shapes)


class _NeedsScoresError(Exception):
    """Scores were asked for where only shapes are known."""


class _Shapes(Mapping[str, np.ndarray]):
    """Stands for scores that nobody has computed."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, path: str) -> np.ndarray:
        raise _NeedsScoresError(path)


def known_sparsities(
    allocation: Allocation, shapes: Mapping[str, tuple[int, ...]], final_sparsity: float
) -> dict[str, float]:
    """The layers' last sparsities, as far as shapes alone tell them: before training has begun.

    Args:
        allocation: how the target is shared.
        shapes: each weight's path -> its shape.
        final_sparsity: the schedule's last target, in [0, 1).

    Returns:
        Each weight's path -> its sparsity; empty where the scores decide.

    Raises:
        ValueError: the allocation cannot have this target, or names a layer that is not there.
    """
    try:
        return allocation(_Shapes(shapes), final_sparsity, final_sparsity)
    except _NeedsScoresError:
        return {}


class Some(Mapping[str, np.ndarray]):
    """The scores of some of the weights."""

    def __init__(self, scores: Mapping[str, np.ndarray], paths: Iterable[str]) -> None:
        self._scores = scores
        self._paths = list(paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, path: str) -> np.ndarray:
        return self._scores[path]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape."""
        shapes = shapes_of(self._scores)
        return {path: shapes[path] for path in self._paths}
