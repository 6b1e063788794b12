"""Sparsities from a sensitivity scan."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_prune.allocation.base import Allocation, check_keys, matches, shapes_of
from keras_prune.allocation.per_layer import progress

# Accuracies are float32: one that is just at the limit may lie below it by its rounding.
_ROUNDING = 1e-6
Curve = tuple[tuple[float, float], ...]  # (sparsity, accuracy), from dense on


@dataclasses.dataclass(frozen=True)
class FromSensitivity(Allocation):
    """Prunes layers more to which the accuracy is less sensitive, by a scan such as `keras_prune.sensitivity` makes.

    A drop of accuracy d gives each layer the largest sparsity at which it costs at most d by itself; between two
    measurements the curve is taken as straight, and after the first that is too low it counts no more.

    - With `max_drop` that is d: the layers reach their sparsities when the schedule reaches its own.
    - Without, d is the same for all layers and chosen so that the whole has the schedule's sparsity, at every step.

    Layers that were not scanned have the schedule's sparsity.

    Args:
        table: the result of `keras_prune.sensitivity`; or rows with ``layer``, ``sparsity`` and ``accuracy`` (as
            attributes or keys); or a dict, layer -> [(sparsity, accuracy), ...].
        max_drop: accuracy that each layer may cost by itself, >= 0, or None.
        baseline: accuracy with nothing pruned; None: the table's, or each layer's at sparsity 0.

    Raises:
        ValueError: a table without rows or without a baseline, or (when used) a layer that the model does not have, or
            a target above what was scanned.

    Example:
        >>> import numpy as np
        >>> table = {"a": [(0.0, 1.0), (0.5, 1.0), (1.0, 0.5)], "b": [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)]}
        >>> FromSensitivity(table, max_drop=0.25)({"a": np.ones(2), "b": np.ones(2)}, 0.8, 0.8)
        {'a': 0.75, 'b': 0.5}

    Han et al. 2015 (https://arxiv.org/abs/1506.02626), figure 6.
    """

    table: Any
    max_drop: float | None = None
    baseline: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError(f"FromSensitivity.max_drop: expected an accuracy >= 0, or None, got {self.max_drop!r}")
        baseline = getattr(self.table, "baseline", None) if self.baseline is None else self.baseline
        object.__setattr__(self, "table", _curves(self.table, baseline))
        object.__setattr__(self, "baseline", baseline)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        table = {layer: [list(point) for point in curve] for layer, curve in self.table.items()}
        return {"table": table, "max_drop": self.max_drop, "baseline": self.baseline}

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Each layer's sparsity."""
        check_keys(self.table, scores, "FromSensitivity")
        curves = {path: curve for path in scores if (curve := self._curve(path)) is not None}
        if self.max_drop is not None:
            done = progress(sparsity, final_sparsity)
            chosen = {path: done * largest_sparsity(curve, self.max_drop) for path, curve in curves.items()}
        else:
            shapes = shapes_of(scores)
            chosen = _solve(curves, {path: math.prod(shapes[path]) for path in curves}, sparsity)
        return {path: chosen.get(path, sparsity) for path in scores}

    def _curve(self, path: str) -> Curve | None:
        if path in self.table:
            return self.table[path]
        return next((curve for layer, curve in self.table.items() if matches(layer, path)), None)


def _curves(table: Any, baseline: float | None) -> dict[str, Curve]:
    """Layer -> its points in order of sparsity, the dense one first."""
    points: dict[str, dict[float, float]] = {}
    for layer, sparsity, accuracy in _rows(table):
        points.setdefault(layer, {} if baseline is None else {0.0: baseline})[float(sparsity)] = float(accuracy)
    without = [layer for layer, curve in points.items() if 0.0 not in curve]
    if not points or without:
        raise ValueError(
            "FromSensitivity: expected a scan with a row or more for each layer and the accuracy with nothing pruned, "
            f"got {f'no dense accuracy of {without[0]}; give baseline=...' if without else f'no rows in {table!r}'}"
        )
    return {layer: tuple(sorted(curve.items())) for layer, curve in points.items()}


def _rows(table: Any) -> Iterable[tuple[str, float, float]]:
    if isinstance(table, Mapping):
        return [(layer, sparsity, accuracy) for layer, curve in table.items() for sparsity, accuracy in curve]
    names = ("layer", "sparsity", "accuracy")
    rows = getattr(table, "rows", table)
    return [tuple(row[n] if isinstance(row, Mapping) else getattr(row, n) for n in names) for row in rows]


def largest_sparsity(curve: Curve, drop: float) -> float:
    """The largest sparsity up to which the accuracy has not fallen by more than `drop`, on straight lines between.

    Args:
        curve: (sparsity, accuracy) in order of sparsity, the dense one first.
        drop: accuracy that may be lost against the first, >= 0.

    Example:
        >>> largest_sparsity(((0.0, 1.0), (0.5, 1.0), (1.0, 0.5)), 0.25)
        0.75
    """
    least = curve[0][1] - drop
    for (low, above), (high, below) in itertools.pairwise(curve):
        if below < least - _ROUNDING:
            return low + (above - least) / (above - below) * (high - low)
    return curve[-1][0]


def _solve(curves: Mapping[str, Curve], sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """The sparsities of one common drop that make this sparsity of all together."""
    total = sum(sizes.values())

    def at(drop: float) -> dict[str, float]:
        return {path: largest_sparsity(curve, drop) for path, curve in curves.items()}

    def overall(chosen: Mapping[str, float]) -> float:
        return sum(sizes[path] * chosen[path] for path in sizes) / max(1, total)

    low, high = 0.0, max((curve[0][1] - min(y for _, y in curve) for curve in curves.values()), default=0.0)
    most = overall(at(high))
    if sparsity > most and total:
        raise ValueError(
            f"FromSensitivity: expected a sparsity up to {most:.4f}, what the scan reaches, got {sparsity}; "
            "scan higher sparsities, or give max_drop"
        )
    if overall(at(low)) >= sparsity:  # no accuracy is lost: all layers by the same factor
        factor = sparsity / overall(at(low)) if sparsity else 0.0
        return {path: factor * value for path, value in at(low).items()}
    for _ in range(60):  # until the drop is exact in float64
        middle = (low + high) / 2
        low, high = (middle, high) if overall(at(middle)) < sparsity else (low, middle)
    # Where an accuracy rises with the sparsity, the sparsity jumps with the drop: the rest is taken in proportion.
    below, above = at(low), at(high)
    gap = overall(above) - overall(below)
    share = (sparsity - overall(below)) / gap if gap > 0 else 1.0
    return {path: below[path] + share * (above[path] - below[path]) for path in below}
