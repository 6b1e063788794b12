"""What each unit is worth: the change of the loss when it alone is removed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune.analysis.oracle_figure import draw
from keras_prune.analysis.partial_loss import PartialLoss
from keras_prune.analysis.rank import ranks
from keras_prune.analysis.resumption import fingerprints, load_rows, save_rows, write_json
from keras_prune.graph import dependencies
from keras_prune.masks import check_model

# Seconds between two writings of the file to resume from; it is written in the end, too, also after an error.
_SAVE_SECONDS = 2.0
# A loss that is computed anew differs by the order of its sums; of other data, or another loss, it differs by more.
_SAME_LOSS = 1e-4
# Stands where a unit's number would in the file, for the model as it is.
_BASELINE = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle:
    """The change of the loss on removal of each unit; ``str`` is a table.

    Attributes:
        loss: of the model as it is.
        changes: name of the group -> loss without the unit minus ``loss``, float64 (units of the group,).
        units: name of the group -> the units' numbers in the model, int64, same shape; units that were zero already
            have none.
    """

    loss: float
    changes: Mapping[str, np.ndarray]
    units: Mapping[str, np.ndarray]

    @property
    def num_units(self) -> int:
        """How many units were measured."""
        return sum(map(len, self.changes.values()))

    def importance(self) -> dict[str, np.ndarray]:
        """Name of the group -> ``|change|``: what a criterion should rank by."""
        return {name: np.abs(change) for name, change in self.changes.items()}

    def ranks(self) -> dict[str, np.ndarray]:
        """Name of the group -> rank of its units among all of the model, float64; 1 has the largest ``|change|``.

        Units with equal changes share the mean of their ranks.

        Example:
            >>> changes = {"a": np.array([0.5, -1.0]), "b": np.array([0.0])}
            >>> Oracle(1.0, changes, units={"a": np.arange(2), "b": np.array([2])}).ranks()
            {'a': array([2., 1.]), 'b': array([3.])}
        """
        found = ranks(-np.concatenate(list(self.importance().values())))
        ends = np.cumsum([len(change) for change in self.changes.values()])
        return dict(zip(self.changes, np.split(found, ends[:-1]), strict=True))

    def figure(self) -> Any:
        """Ranks by layer, as a matplotlib figure: ``result.figure().savefig("oracle.png")``.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw(self.ranks(), self.changes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to a JSON file."""
        groups = {
            name: {"units": self.units[name].tolist(), "changes": change.tolist()}
            for name, change in self.changes.items()
        }
        write_json(path, {"loss": self.loss, "groups": groups})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Oracle:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not of this kind.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
            groups = content["groups"]
            units = {name: np.array(group["units"], np.int64) for name, group in groups.items()}
            changes = {name: np.array(group["changes"], np.float64) for name, group in groups.items()}
            if any(units[name].ndim != 1 or units[name].shape != change.shape for name, change in changes.items()):
                raise ValueError("units and changes differ in length")
            return cls(float(content["loss"]), changes, units)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"path: expected a file that Oracle.save wrote, got {path}, which is not one") from error

    def __str__(self) -> str:
        """A row for each layer: what its units are worth."""
        lines = [["layer", "units", "mean |change|", "smallest", "largest", "loss falls", "mean rank", "first", "last"]]
        found = self.ranks()
        for name, change in self.changes.items():
            if not len(change):  # all of them were zero already
                continue
            size, rank = np.abs(change), found[name]
            numbers = [f"{value:.3g}" for value in (size.mean(), size.min(), size.max())]
            places = [f"{value:.1f}" for value in (rank.mean(), rank.min(), rank.max())]
            lines.append([name, str(len(change)), *numbers, str(int(np.sum(change < 0))), *places])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
        return "\n".join([f"loss {self.loss:.4f}; {self.num_units} units, one removed at a time:", *text])


def oracle(
    model: Any,
    data: Any,
    *,
    groups: str | Sequence[str] | None = None,
    units_per_group: int | None = None,
    protected: Sequence[str] = (),
    exact: bool = True,
    resume: str | os.PathLike[str] | None = None,
) -> Oracle:
    """Measures the exact change of the loss on removal of each unit, one at a time: ``C(without unit) - C``.

    Each unit of the free groups of `keras_prune.graph.dependencies` is set to zero, the loss is computed on all of the
    data in inference mode, and the unit gets its values back, also after an error. The loss is the compiled one,
    without penalties on weights; only what lies behind the unit is computed anew.

    Args:
        model: a Keras 3 model that has been built; compiled with a loss unless ``data`` is a function.
        data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, a dataset, or a function model -> loss, lower is
            better. A few thousand examples; what the model was trained on is what the criteria see, too.
        groups: names of the groups to measure, as in the table of ``dependencies(model)``; None: all that are free.
        units_per_group: how many units of each group to measure, >= 1, evenly spread; None: all. Of a net with
            thousands of units a part tells how criteria rank.
        protected: as in `keras_prune.Channel`: layers whose units stay.
        exact: as in `keras_prune.Channel`: False measures also the units that zeros would change the statistics of a
            normalization by. These statistics count the zeros, as those of the masked model do.
        resume: a file that gets the measurements as they are made; a run that was broken off goes on from it,
            also with other ``groups`` or ``units_per_group``.

    Returns:
        The changes, as a table, a figure, or the ranking that criteria are compared with.

    Raises:
        TypeError: the model or data are not of the expected kind.
        ValueError: a name or number is wrong, the loss is not finite, or ``resume`` holds another model, data or
            settings.

    Example:
        >>> found = keras_prune.oracle(model, (x, y), resume="oracle.json")  # doctest: +SKIP
        >>> found.figure().savefig("oracle.png")  # doctest: +SKIP

    Molchanov, Tyree, Karras, Aila and Kautz 2017, section 2.1 and figure 1 (https://arxiv.org/abs/1611.06440).
    """
    check_model(model)
    graph = dependencies(model, protected=protected, exact=exact)
    chosen = _spread(_chosen(graph, groups), units_per_group)
    loss_of = _loss_of(model, data)
    settings = {**fingerprints(model, data), "groups": {group.name: group.units.tolist() for group in graph.free}}
    run = _Run(resume, settings, loss=_finite(loss_of([])(), "the model as it is"))
    progress = keras.utils.Progbar(sum(map(len, chosen.values())), unit_name="unit")
    try:
        for units in chosen.values():
            parts = [part for part in graph.parts if part.zeroed and np.isin(part.units, units).any()]
            _measure(run, parts, units=units.tolist(), loss_of=loss_of, progress=progress)
    finally:
        run.save()
    changes = {name: np.array([run.changes[unit] for unit in units.tolist()]) for name, units in chosen.items()}
    return Oracle(run.loss, changes, chosen)


_Loss = Callable[[], float]


class _Run:
    """The changes measured so far, and the file that keeps them."""

    def __init__(self, path: Any, settings: dict[str, Any], *, loss: float) -> None:
        self._path, self._settings, self._saved = path, settings, time.monotonic()
        self.changes: dict[int, float] = dict(load_rows(path, settings, name="oracle", row=_row))
        self.loss = self.changes.pop(_BASELINE, loss)
        if not math.isclose(self.loss, loss, rel_tol=_SAME_LOSS):
            raise ValueError(
                f"resume: expected the same data and loss as in {path}, got a loss of {loss:.6g}, there "
                f"{self.loss:.6g}, of the same weights; delete the file to begin anew, or give another one"
            )

    def add(self, unit: int, change: float) -> None:
        """Takes one measurement; the file is written now and then, for it may be long."""
        self.changes[unit] = change
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes the file, if there is one."""
        save_rows(self._path, self._settings, [[_BASELINE, self.loss], *map(list, self.changes.items())])
        self._saved = time.monotonic()


def _row(unit: int, change: float) -> tuple[int, float]:
    """One measurement of a file."""
    if not isinstance(unit, int):
        raise TypeError(f"expected the number of a unit, got {unit!r}")
    return unit, _finite(change, f"unit {unit}")


def _chosen(graph: Any, names: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """Name of the group -> its units that are not zero yet."""
    free = {group.name: group.units for group in graph.free}
    wanted = list(free) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in free]
    if unknown or not wanted:
        raise ValueError(
            f"groups: expected some of {', '.join(map(repr, free)) or 'none, for no unit is free'}; got "
            f"{unknown or wanted}; print(keras_prune.graph.dependencies(model)) shows which may be removed"
        )
    zero = graph.zero_units()
    return {name: np.array(free[name][~zero[free[name]]], np.int64) for name in free if name in wanted}


def _spread(chosen: dict[str, np.ndarray], number: int | None) -> dict[str, np.ndarray]:
    """At most so many units of each group, from its first to its last."""
    if number is None:
        return chosen
    if number < 1:
        raise ValueError(f"units_per_group: expected a whole number >= 1, or None for all, got {number!r}")
    return {
        name: units[np.linspace(0, len(units) - 1, min(number, len(units))).round().astype(int)]
        for name, units in chosen.items()
    }


def _loss_of(model: Any, data: Any) -> Callable[[Sequence[Any]], _Loss]:
    """Variables -> a function that returns the loss with the values that they have then."""
    if callable(data):
        return lambda variables: lambda: float(data(model))
    return PartialLoss(model, data).behind


def _measure(
    run: _Run, parts: Sequence[Any], *, units: Sequence[int], loss_of: Callable[[Sequence[Any]], _Loss], progress: Any
) -> None:
    """The changes of one group's units, but for those that are known."""
    missing = [unit for unit in units if unit not in run.changes]
    if len(missing) < len(units):
        progress.add(len(units) - len(missing))
    if missing:
        loss = loss_of([part.variable for part in parts])
        before = loss()  # of the same graph, so that a unit without influence changes it by exactly zero
        for unit in missing:
            with _removed(parts, unit):
                run.add(unit, _finite(loss(), f"the model without unit {unit}") - before)
            progress.add(1)


@contextlib.contextmanager
def _removed(parts: Sequence[Any], unit: int) -> Iterator[None]:
    """Sets one unit to zero for a while."""
    variables = {id(part.variable): part.variable for part in parts if unit in part.units}
    before = {key: np.array(variable.numpy()) for key, variable in variables.items()}
    values = {key: array.copy() for key, array in before.items()}
    for part in parts:
        if id(part.variable) in values:
            np.moveaxis(values[id(part.variable)], part.axis, 0)[part.units == unit] = 0
    try:
        for key, variable in variables.items():
            variable.assign(values[key])
        yield
    finally:
        for key, variable in variables.items():
            variable.assign(before[key])


def _finite(loss: Any, what: str) -> float:
    """The loss; raises ValueError unless it is a finite number."""
    if not math.isfinite(loss):
        raise ValueError(f"data: expected a finite loss, got {loss!r} of {what}; check the model and the data")
    return float(loss)
