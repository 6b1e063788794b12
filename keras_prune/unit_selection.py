"""Which units are kept: scores of groups, normalised, and an allocation's share of the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from keras_prune.allocation import (
    ERK,
    Allocation,
    Exempt,
    FromSensitivity,
    PerLayer,
    QualityParameter,
    check_keys,
    kept_count,
    matches,
    select_highest,
    shapes_of,
)
from keras_prune.allocation.base import Some
from keras_prune.allocation.per_layer import progress
from keras_prune.channels import UnitMasks
from keras_prune.graph import Group
from keras_prune.masks import Recipe, Statistic
from keras_prune.unit_scores import normalized, unit_scores
from keras_prune.unit_statistics import UnitStatistics


class UnitScores(Mapping[str, np.ndarray]):
    """Scores of the units by group, comparable between groups; computed when asked for, once.

    ``score / ||scores of the group||_2``, or the score itself, if the criterion says so and there is no penalty; a unit
    that is pruned already has minus infinity, so that it stays pruned while the target does not fall, unless the
    criterion revives units.

    Args:
        masks: the units.
        recipe: the criterion and the pattern, whose pooling counts.
        statistics: what the criterion gathers at the units' activations.
        statistic: a kernel's path -> mean of what it gathers at weights, or None.
        penalty: (units of the model,) what is taken off each normalised score; None: nothing.
    """

    def __init__(
        self,
        masks: UnitMasks,
        recipe: Recipe,
        *,
        statistics: UnitStatistics,
        statistic: Statistic,
        penalty: np.ndarray | None = None,
    ) -> None:
        self._groups: dict[str, Group] = {group.name: group for group in masks.groups}
        self._kept = masks.kept
        self._recipe = recipe
        self._statistics = statistics
        paths = {variable.path: path for path, variable in masks.variables.items()}
        self._statistic: Statistic = lambda path: statistic(paths[path])
        self._penalty = np.zeros(masks.deps.num_units) if penalty is None else penalty
        self._scaled = penalty is not None or not getattr(recipe.criterion, "comparable", False)
        self._known: dict[str, np.ndarray] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """How many units each group has, for allocations that need no scores."""
        return {name: (len(group.units),) for name, group in self._groups.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._known:
            group = self._groups[name]
            criterion, pooling = self._recipe.criterion, getattr(self._recipe.pattern, "pooling", "mean")
            scores = unit_scores(
                group, criterion, self._statistics, gradients_statistic=self._statistic, pooling=pooling
            )
            scores = (normalized(scores) if self._scaled else scores) - self._penalty[group.units]
            stays = getattr(criterion, "revives", False) | self._kept[group.units]
            self._known[name] = np.where(stays, scores, -np.inf).astype(np.float32)
        return self._known[name]


class _AtLeast(Mapping[str, np.ndarray]):
    """The scores with those of each group's best units infinite, so that a threshold for all keeps these."""

    def __init__(self, scores: UnitScores, minimum: int) -> None:
        self._scores = scores
        self._minimum = minimum
        self.shapes = scores.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __getitem__(self, name: str) -> np.ndarray:
        scores = self._scores[name]
        best = select_highest(scores, min(self._minimum, len(scores)))
        return np.where(best, np.float32(np.inf), scores)


class GroupAllocation(Allocation):
    """Shares a target of units between groups, which may be named as their layers are.

    Args:
        allocation: `Uniform`, `Global`, `PerLayer`, `Exempt` of these, or the user's own.
        names: group -> its name and the paths of its kernels.

    Raises:
        ValueError: an allocation that counts weights, or (when used) a name that no group has.
    """

    def __init__(self, allocation: Allocation, names: Mapping[str, Sequence[str]]) -> None:
        if isinstance(allocation, (ERK, QualityParameter, FromSensitivity)):
            raise ValueError(
                f"allocation: expected 'uniform', 'global', a dict of sparsities by layer, or Exempt of these, with "
                f"Channel(), whose target is a fraction of units, got {allocation!r}, which looks at single weights; "
                "take one of these, or Channel(output_axes=-1), which masks each kernel by itself"
            )
        self._allocation = allocation
        self._names = names

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Group -> its sparsity."""
        allocation = self._allocation
        if isinstance(allocation, PerLayer):
            given = {name: self._first(name, allocation.sparsities) for name in scores}
            check_keys(allocation.sparsities, self._paths(scores), "PerLayer")
            done = progress(sparsity, final_sparsity)
            return {name: sparsity if final is None else final * done for name, final in given.items()}
        if isinstance(allocation, Exempt):
            return self._without(allocation, scores, (sparsity, final_sparsity))
        return allocation(scores, sparsity, final_sparsity)

    def _without(
        self, exempt: Exempt, scores: Mapping[str, np.ndarray], targets: tuple[float, float]
    ) -> dict[str, float]:
        """With groups that stay whole; targets: (sparsity, final_sparsity)."""
        check_keys(exempt.layers, self._paths(scores), "Exempt")
        names = list(scores)
        whole = {name for name in names if self._first(name, dict.fromkeys(exempt.layers, 0.0)) is not None}
        whole |= {*names[:1] * exempt.first, *names[-1:] * exempt.last}
        others = [name for name in names if name not in whole]
        shapes = shapes_of(scores)
        size, rest = (sum(shapes[name][0] for name in some) for some in (names, others))
        factor = size / rest if exempt.compensate and rest else 1.0
        if not others or targets[1] * factor >= 1:
            raise ValueError(
                f"Exempt: expected channels that can make up for those of {', '.join(sorted(whole))} at a sparsity of "
                f"{targets[1]}, got {rest} of {size}; exempt fewer layers, or take compensate=False"
            )
        inner = GroupAllocation(exempt.allocation, self._names)
        shared = inner(Some(scores, others), targets[0] * factor, targets[1] * factor)
        return {name: shared.get(name, 0.0) for name in names}

    def _first(self, name: str, values: Mapping[str, float]) -> float | None:
        """The value of the first key that means the group, or one of its layers."""
        found = (value for key, value in values.items() if any(matches(key, path) for path in self._names[name]))
        return next(found, None)

    def _paths(self, names: Iterable[str]) -> list[str]:
        return [path for name in names for path in self._names[name]]


def choose(masks: UnitMasks, recipe: Recipe, scores: UnitScores, *, targets: tuple[float, float]) -> np.ndarray:
    """The units to keep for a target.

    Args:
        masks: the units.
        recipe: the pattern and the allocation.
        scores: of the units.
        targets: for all units of the groups together, now and in the end, each in [0, 1).

    Returns:
        (masks.deps.num_units,) bool.
    """
    deps = masks.deps
    sparsities = GroupAllocation(recipe.allocation, masks.names)(_AtLeast(scores, deps.minimum), *targets)
    removed = np.zeros(deps.num_units, bool)
    for group in masks.groups:
        size = len(group.units)
        kept = max(min(deps.minimum, size), kept_count(size, sparsities[group.name]))
        removed[group.units] = ~select_highest(scores[group.name], kept)
    return deps.keep(removed, together(masks, scores))


def together(masks: UnitMasks, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """(masks.deps.num_units,) float: the scores of all units; 0 for those of other groups."""
    result = np.zeros(masks.deps.num_units, np.float32)
    for group in masks.groups:
        result[group.units] = scores[group.name]
    return result
