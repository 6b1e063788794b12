"""How well criteria know what the oracle measures: Spearman's correlation of their rankings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune import criteria as known
from keras_prune.analysis.oracle import Oracle
from keras_prune.analysis.oracle import oracle as measure
from keras_prune.analysis.rank import spearman
from keras_prune.analysis.rank_figure import draw
from keras_prune.gradients import Gradients, gather_on
from keras_prune.graph import dependencies
from keras_prune.unit_scores import normalized, unit_scores
from keras_prune.unit_statistics import UnitStatistics, gathers_weights, observe_on

Scores = Mapping[str, np.ndarray]
# Those that can score any unit; BatchNormScale needs a normalization behind each.
CRITERIA = (
    *("taylor", "taylor_fo", "weight_norm", "magnitude", "activation_mean", "activation_std", "apoz"),
    *("mutual_information", "obd", "geometric_median", "random"),
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How much one criterion agrees with the oracle: Spearman's correlations in [-1, 1]; NaN where there is no order.

    Attributes:
        layers: name of the group -> correlation of its scores with ``|change|``.
        signed_layers: the same with the signed change.
        overall: of the scores of all layers as they are, with ``|change|``.
        normalized: of those divided by their l2 norm within the layer.
        signed: as ``normalized``, with the signed change.
    """

    layers: Mapping[str, float]
    signed_layers: Mapping[str, float]
    overall: float
    normalized: float
    signed: float

    @property
    def per_layer(self) -> float:
        """The mean of ``layers``, without those that have no order."""
        return _mean(self.layers)

    @property
    def signed_per_layer(self) -> float:
        """The mean of ``signed_layers``, likewise."""
        return _mean(self.signed_layers)


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Criteria against the oracle; ``str`` is a table, the best first.

    Attributes:
        criteria: name of the criterion -> its agreement with the oracle.
        oracle: what they were compared with.
    """

    criteria: Mapping[str, Agreement]
    oracle: Oracle

    def sorted(self) -> list[tuple[str, Agreement]]:
        """Names and agreements, the highest mean of the layers first.

        Over all layers even random scores agree with the oracle: narrow layers matter most, and the norm favours them.
        """
        return sorted(self.criteria.items(), key=lambda item: -np.nan_to_num(item[1].per_layer, nan=-2.0))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The numbers by criterion, the best first, for JSON; None where there is no order."""
        return {
            name: {
                **{column: _plain(getattr(found, column)) for column in _COLUMNS},
                "layers": {layer: _plain(value) for layer, value in found.layers.items()},
            }
            for name, found in self.sorted()
        }

    def figure(self) -> Any:
        """Every criterion in every layer and overall, as a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        rows = {
            name: {**found.layers, "mean of\nlayers": found.per_layer, "all, raw": found.overall}
            | {"all, l2": found.normalized}
            for name, found in self.sorted()
        }
        return draw(rows, num_layers=len(self.oracle.changes))

    def __str__(self) -> str:
        """A row for each criterion: the mean of the layers, all layers, and the same with the signed change."""
        lines = [["criterion", *_COLUMNS.values()]]
        lines += [[name, *(_cell(getattr(found, key)) for key in _COLUMNS)] for name, found in self.sorted()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
        units, layers = self.oracle.num_units, len(self.oracle.changes)
        return "\n".join([f"Spearman's correlation with the oracle, {units} units of {layers} layers:", *text])


_COLUMNS = {
    "per_layer": "per layer",
    "overall": "all, raw",
    "normalized": "all, l2",
    "signed_per_layer": "signed, per layer",
    "signed": "signed, all, l2",
}


def rank_correlation(
    model: Any,
    data: Any,
    *,
    criteria: Sequence[Any] = CRITERIA,
    oracle: Oracle | None = None,
    protected: Sequence[str] = (),
    exact: bool = True,
    resume: str | os.PathLike[str] | None = None,
) -> RankCorrelation:
    """Compares how criteria rank the units with what their removal does to the loss.

    ``Spearman(score, |change|)`` within each layer, and over all layers at once, with the scores as they are and with
    each layer's scores divided by their l2 norm.

    Args:
        model: a Keras 3 model, compiled with a loss; nothing of it is changed.
        data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, or a dataset: what the criteria observe, and what the
            oracle is measured on unless it is given.
        criteria: names or criteria.
        oracle: of this model, if it was measured already.
        protected: as in `keras_prune.oracle`.
        exact: as in `keras_prune.oracle`.
        resume: as in `keras_prune.oracle`.

    Returns:
        The correlations, as a table or a figure.

    Raises:
        TypeError: the model or data are not of the expected kind.
        ValueError: a criterion cannot score units, or the oracle is of another model.

    Example:
        >>> found = keras_prune.rank_correlation(model, (x, y), criteria=["taylor", "random"])  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
        >>> found.figure().savefig("spearman.png")  # doctest: +SKIP

    Molchanov, Tyree, Karras, Aila and Kautz 2017, table 1 (https://arxiv.org/abs/1611.06440).
    """
    chosen = {_name(criterion): known.get(criterion) for criterion in criteria}
    found = measure(model, data, protected=protected, exact=exact, resume=resume) if oracle is None else oracle
    free = dependencies(model, protected=protected, exact=exact).free
    groups = {group.name: group for group in free if group.name in found.units}
    places = {}
    for name, units in found.units.items():
        order = {unit: place for place, unit in enumerate(groups[name].units.tolist())} if name in groups else {}
        if not order.keys() >= set(units.tolist()):
            raise ValueError(
                f"oracle: expected one of this model, got units of {name!r} that it has not, or that are protected; "
                "measure it anew: keras_prune.oracle(model, data), or give the arguments that it was measured with"
            )
        places[name] = [order[unit] for unit in units.tolist()]
    scores = {name: _scores(model, data, criterion, groups=groups) for name, criterion in chosen.items()}
    # The norm is that of the whole layer, where the oracle has measured a part of it, too.
    scaled = {name: {g: normalized(v)[places[g]] for g, v in each.items()} for name, each in scores.items()}
    raw = {name: {g: v[places[g]] for g, v in each.items()} for name, each in scores.items()}
    return correlate(found, raw, scaled=scaled)


def _scores(model: Any, data: Any, criterion: Any, *, groups: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Name of the group -> scores of its units, gathered on the data if the criterion observes anything."""
    stats, gradients = UnitStatistics(criterion, list(groups.values())), Gradients(criterion)
    if stats.needed:
        observe_on(model, stats, data)
    elif gathers_weights(criterion):
        gradients.watch({part.variable.path: part.variable for group in groups.values() for part in group.kernels})
        gather_on(model, gradients, data)
    return {
        name: unit_scores(group, criterion, stats, gradients_statistic=gradients.statistic)
        for name, group in groups.items()
    }


def _name(criterion: Any) -> str:
    """What stands in the table: the name that was given, else the criterion with the arguments that are not usual."""
    if isinstance(criterion, str) or not isinstance(criterion, known.Criterion):
        return criterion if isinstance(criterion, str) else repr(criterion)
    fields = dataclasses.fields(criterion)  # type: ignore[arg-type]
    own = [f"{f.name}={getattr(criterion, f.name)!r}" for f in fields if getattr(criterion, f.name) != f.default]
    return type(criterion).__name__ + (f"({', '.join(own)})" if own else "")


def correlate(
    oracle: Oracle, scores: Mapping[str, Scores], *, scaled: Mapping[str, Scores] | None = None
) -> RankCorrelation:
    """Compares scores that are known with an oracle.

    Args:
        oracle: the measured changes.
        scores: name of the criterion -> name of the group -> scores float (units of the group in the oracle,).
        scaled: the same, each divided by the l2 norm of all scores of its layer; None: the scores that are given are
            all of them.

    Returns:
        The correlations.

    Raises:
        ValueError: a group is missing, or has another number of units.

    Example:
        >>> units = {"a": np.arange(3)}
        >>> oracle = Oracle(1.0, {"a": np.array([0.1, -0.3, 0.2])}, units)
        >>> scores = {"good": {"a": np.array([1.0, 3.0, 2.0])}, "bad": {"a": np.array([2.0, 0.0, 1.0])}}
        >>> found = correlate(oracle, scores)
        >>> {name: agreement.normalized for name, agreement in found.sorted()}
        {'good': 1.0, 'bad': -1.0}
    """
    if scaled is None:
        scaled = {name: {g: normalized(values) for g, values in found.items()} for name, found in scores.items()}
    agreements = {name: _agreement(oracle, name, scores=found, scaled=scaled[name]) for name, found in scores.items()}
    return RankCorrelation(agreements, oracle)


def _agreement(oracle: Oracle, name: str, *, scores: Scores, scaled: Scores) -> Agreement:
    """The correlations of one criterion."""
    for group, change in oracle.changes.items():
        if group not in scores or np.shape(scores[group]) != change.shape:
            got = f"shape {np.shape(scores[group])}" if group in scores else "none"
            raise ValueError(
                f"scores of {name}: expected one for each of the {len(change)} units of {group}, got {got}"
            )
    groups = [group for group, change in oracle.changes.items() if len(change)]
    found = {group: np.asarray(scores[group], np.float64) for group in groups}
    changes = np.concatenate([oracle.changes[group] for group in groups])
    compared = np.concatenate([scaled[group] for group in groups])
    return Agreement(
        layers={group: spearman(values, np.abs(oracle.changes[group])) for group, values in found.items()},
        signed_layers={group: spearman(values, oracle.changes[group]) for group, values in found.items()},
        overall=spearman(np.concatenate(list(found.values())), np.abs(changes)),
        normalized=spearman(compared, np.abs(changes)),
        signed=spearman(compared, changes),
    )


def _mean(values: Mapping[str, float]) -> float:
    ordered = [value for value in values.values() if not np.isnan(value)]
    return float(np.mean(ordered)) if ordered else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
