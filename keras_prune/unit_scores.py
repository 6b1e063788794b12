"""Scores of units from their weights, or from what was gathered of them in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_prune.criteria import Criterion
from keras_prune.unit_gates import positions
from keras_prune.unit_statistics import UnitStatistics, gathers_weights

if TYPE_CHECKING:
    from keras_prune.graph import Group, Part


def unit_scores(
    group: Group,
    criterion: Callable[..., np.ndarray],
    stats: UnitStatistics | None = None,
    *,
    gradients_statistic: Callable[[str], np.ndarray | None] = lambda path: None,
    pooling: str = "mean",
) -> np.ndarray:
    """How much each unit of a group matters.

    A unit has members: the layers whose channels go with it, such as all that feed one channel of a residual sum. What
    is observed of them is combined as the criterion says: `Taylor` and `TaylorFO` add it up, as removal takes them all
    away; activations are averaged. Scores of weights are pooled over all weights of all kernels that make the unit.

    Args:
        group: of units.
        criterion: what makes a unit matter, or a function weights -> scores.
        stats: what was gathered, if the criterion observes units.
        gradients_statistic: a kernel's path -> what `keras_prune.gradients.Gradients` gathered of its weights, for
            criteria of weights.
        pooling: a unit's score: the ``"mean"``, ``"sum"`` or ``"max"`` of its weights' scores.

    Returns:
        (units,), float32, in the order of ``group.units``. Higher is kept. Units whose kernels and scales are all zero
        have -inf, so that what is pruned is last under any normalisation and penalty, unless the criterion revives.

    Raises:
        ValueError: nothing was gathered of the units, or the criterion cannot score them.
    """
    criterion = criterion.of(group.name) if isinstance(criterion, Criterion) else criterion
    if getattr(criterion, "observes", None) is not None:
        found: np.ndarray | None = _observed(group, criterion, stats)
    else:
        found = _by_units(group, criterion)
    if found is None:
        found = _pooled(group, criterion, gradients_statistic=gradients_statistic, pooling=pooling)
    scores = np.asarray(found, np.float32)
    if np.isnan(scores).any():
        raise ValueError(f"criterion: expected numbers as scores of {group.name}, got NaN from {criterion!r}")
    if isinstance(criterion, Criterion) and not criterion.revives:
        scores = np.where(_zero(group), np.float32(-np.inf), scores)
    return scores


def normalized(scores: np.ndarray) -> np.ndarray:
    """``scores / ||scores||_2``: scores of one group as they are compared with those of others.

    Args:
        scores: (units,), float; -inf (units that are pruned) counts as nothing, and stays.

    Returns:
        Same shape, float64; scores that are all zero stay.

    Example:
        >>> normalized(np.array([3.0, 4.0, -np.inf])).tolist()
        [0.6, 0.8, -inf]

    Molchanov, Tyree, Karras, Aila and Kautz 2017 (https://arxiv.org/abs/1611.06440), equation 9.
    """
    scores = np.asarray(scores, np.float64)
    norm = np.linalg.norm(scores[np.isfinite(scores)])
    return scores / norm if norm > 0 else scores


def _observed(group: Group, criterion: Any, stats: UnitStatistics | None) -> np.ndarray:
    """From what was gathered at the group's sites, or of its gates."""
    gates = stats.gates(group) if stats is not None else None
    if gates is not None:
        return gates
    found = [(site, stats.statistic(site)) for site in group.sites] if stats is not None else []
    if not found or any(statistic is None for _, statistic in found):
        name = type(criterion).__name__
        raise ValueError(
            f"{name}: expected what was gathered of the units of {group.name}, got none; train with "
            f"PruneCallback(criterion={name}(), pattern=Channel()), which gathers it in each step, or give data: "
            f"prune(model, sparsity, criterion={name}(), pattern=Channel(), data=...)"
        )
    total = np.zeros(len(group.units))
    count = np.zeros(len(group.units))
    for site, statistic in found:
        places = positions(site.units, group.units)
        there = places >= 0
        np.add.at(total, places[there], np.asarray(statistic)[there])
        np.add.at(count, places[there], 1)
    return total if criterion.combines == "sum" else total / np.maximum(count, 1)


def _by_units(group: Group, criterion: Any) -> np.ndarray | None:
    """From a criterion that scores units, not weights; None: it scores weights."""
    if not isinstance(criterion, Criterion) or type(criterion).score_units is Criterion.score_units:
        return None
    kernels, scales = ([_rows(part, group) for part in parts] for parts in (group.kernels, group.scales))
    try:
        return criterion.score_units(kernels, scales)
    except ValueError as error:
        raise ValueError(
            f"{error} in {group.name}; protect it (Channel(protected=({group.kernels[0].layer!r},))), or choose "
            "another criterion"
        ) from error


def _pooled(group: Group, criterion: Any, *, gradients_statistic: Callable[..., Any], pooling: str) -> np.ndarray:
    """From the scores of all weights of the kernels that make the units."""
    total = np.full(len(group.units), -np.inf if pooling == "max" else 0.0)
    count = np.zeros(len(group.units))
    for part in group.kernels:
        weights = _float(part.variable)
        own = criterion.of(part.variable.path) if isinstance(criterion, Criterion) else criterion
        scores = own(weights, gradients_statistic(part.variable.path)) if gathers_weights(own) else own(weights)
        scores = np.moveaxis(np.asarray(scores, np.float64), part.axis, 0).reshape(weights.shape[part.axis], -1)
        places = positions(part.units, group.units)
        there = places >= 0
        if pooling == "max":
            np.maximum.at(total, places[there], scores[there].max(axis=1))
        else:
            np.add.at(total, places[there], scores[there].sum(axis=1))
        np.add.at(count, places[there], scores.shape[1])
    return total / np.maximum(count, 1) if pooling == "mean" else total


def _zero(group: Group) -> np.ndarray:
    """Whether all kernels and scales of each unit are zero, (units,) bool."""
    alive = np.zeros(len(group.units), bool)
    for part in (*group.kernels, *group.scales):
        weights = _float(part.variable)
        rest = tuple(axis for axis in range(weights.ndim) if axis != part.axis)
        places = positions(part.units, group.units)
        there = (places >= 0) & (weights != 0).any(axis=rest)
        alive[places[there]] = True
    return ~alive


def _rows(part: Part, group: Group) -> np.ndarray:
    """A variable as one row for each unit of the group, float32; shorter ones are filled with zeros."""
    weights = _float(part.variable)
    weights = np.moveaxis(weights, part.axis, 0).reshape(weights.shape[part.axis], -1)
    places = positions(part.units, group.units)
    chosen = np.flatnonzero(places >= 0)
    chosen = chosen[np.argsort(places[chosen], kind="stable")]  # each unit's indices one after another
    sizes = np.bincount(places[chosen], minlength=len(group.units))
    number = np.arange(len(chosen)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the unit
    rows = np.zeros((len(group.units), sizes.max(initial=0), weights.shape[1]), np.float32)
    rows[places[chosen], number] = weights[chosen]
    return rows.reshape(len(rows), -1)


def _float(variable: Any) -> np.ndarray:
    weights = variable.numpy()
    return weights if weights.dtype in (np.float32, np.float64) else weights.astype(np.float32)
