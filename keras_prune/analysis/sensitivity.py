"""How much accuracy each layer's weights are worth: one layer is pruned at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune import criteria
from keras_prune.allocation import PerLayer
from keras_prune.allocation.from_sensitivity import Curve, largest_sparsity
from keras_prune.analysis.judge import judge
from keras_prune.analysis.resumption import fingerprints, load_rows, save_rows
from keras_prune.gradients import Gradients, gather_on
from keras_prune.masks import Layers, check_model, make_mask, prunable
from keras_prune.schedules import check_sparsity

SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)


@dataclasses.dataclass(frozen=True)
class SensitivityRow:
    """One measurement.

    Attributes:
        layer: the weight's path, such as ``"dense/kernel"``.
        sparsity: its fraction of zeros, the other layers as they were.
        accuracy: what was measured.
    """

    layer: str
    sparsity: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Accuracy against sparsity for each layer; ``str`` is a table.

    Attributes:
        baseline: accuracy of the model as it is.
        rows: a measurement for each layer and sparsity.
        metric: the name of what was measured.
    """

    baseline: float
    rows: tuple[SensitivityRow, ...]
    metric: str = "accuracy"

    @property
    def layers(self) -> list[str]:
        """The paths of the layers, in the model's order."""
        return list(dict.fromkeys(row.layer for row in self.rows))

    def curve(self, layer: str) -> tuple[list[float], list[float]]:
        """Sparsities and accuracies of one layer, from dense on."""
        sparsities, accuracies = zip(*self._points(layer), strict=True)
        return list(sparsities), list(accuracies)

    def _points(self, layer: str) -> Curve:
        points = {0.0: self.baseline} | {row.sparsity: row.accuracy for row in self.rows if row.layer == layer}
        return tuple(sorted(points.items()))

    def allocation(self, drop: float = 0.01) -> PerLayer:
        """The largest sparsity of each layer that costs no more than ``drop`` by itself.

        Between two measurements the curve is taken as straight; after the first that is too low it counts no more.

        Args:
            drop: accuracy that may be lost by each layer, >= 0; 0.01 is one point of percent.

        Returns:
            Each path -> sparsity; layers that were not scanned are pruned like the whole.

        Raises:
            ValueError: ``drop`` is negative.

        Example:
            >>> rows = (SensitivityRow("a", 0.5, 0.98), SensitivityRow("a", 0.9, 0.94))
            >>> Sensitivity(0.98, rows).allocation(drop=0.02)
            PerLayer(sparsities={'a': 0.7})
        """
        if not drop >= 0:
            raise ValueError(f"drop: expected the accuracy that each layer may lose, >= 0, got {drop!r}")
        # The longest path first: a path also matches as a part of a longer one, and the first key that matches counts.
        layers = sorted(self.layers, key=len, reverse=True)
        return PerLayer({layer: round(largest_sparsity(self._points(layer), drop), 6) for layer in layers})

    def figure(self) -> Any:
        """The curves, as a matplotlib figure: ``result.figure().savefig("sensitivity.png")``.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("figure: expected matplotlib; pip install 'keras-prune[plot]'") from error
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for number, layer in enumerate(self.layers):
            sparsities, accuracies = self.curve(layer)
            marker = "os^Dv<>pX*"[number % 10]  # so that the curves are told apart without colours, too
            axes.plot([100 * value for value in sparsities], accuracies, f"{marker}-", markersize=4, label=layer)
        axes.axhline(self.baseline, color="0.5", linestyle="--", linewidth=1, label="nothing pruned")
        axes.set(xlabel="sparsity of the layer (% zeros)", ylabel=f"{self.metric}, without retraining")
        axes.set_title("Sensitivity of each layer to pruning, one at a time")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        return figure

    def __str__(self) -> str:
        """A row for each layer, a column for each sparsity."""
        columns = sorted({row.sparsity for row in self.rows})
        found = {(row.layer, row.sparsity): f"{row.accuracy:.4f}" for row in self.rows}
        lines = [["layer", *(f"{column:.4g}" for column in columns)]]
        lines += [[layer, *(found.get((layer, column), "") for column in columns)] for layer in self.layers]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
        return "\n".join([f"{self.metric} {self.baseline:.4f} with nothing pruned; with one layer pruned to:", *text])


def sensitivity(
    model: Any,
    data: Any,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    criterion: Any = "magnitude",
    layers: Layers = None,
    metric: str = "accuracy",
    resume: str | os.PathLike[str] | None = None,
) -> Sensitivity:
    """Prunes one layer at a time to each sparsity, without retraining, and measures the accuracy.

    The model is compiled once for all measurements and has its own weights again in the end, also after an error.

    Args:
        model: a Keras 3 model that has been built; compiled with ``metric`` unless ``data`` is a function.
        data: ``(x, y)`` of arrays, a dataset, or a function model -> number, higher is better.
        sparsities: in [0, 1).
        criterion: what makes a weight matter: a name, a criterion, or a function weights -> scores. If it needs
            gradients, they are gathered on ``data``, once.
        layers: which to scan: names, regular expressions, or a function of the variable; None: all.
        metric: a metric of the model whose higher value is better.
        resume: a file that gets each measurement as it is made; a scan that was broken off goes on from it.

    Returns:
        The measurements, as a table, a figure, or an allocation.

    Raises:
        TypeError: the model or data are not of the expected kind.
        ValueError: a wrong sparsity or name, or ``resume`` holds a scan of another model, data or settings.

    Example:
        >>> scan = keras_prune.sensitivity(model, (x, y), resume="scan.json")  # doctest: +SKIP
        >>> callback = keras_prune.PruneCallback(allocation=scan.allocation(drop=0.01))  # doctest: +SKIP

    Han, Pool, Tran and Dally 2015, figure 6 (https://arxiv.org/abs/1506.02626).
    """
    check_model(model)
    if isinstance(sparsities, int | float) or not len(sparsities):
        raise ValueError(f"sparsities: expected one or more, such as [0.5, 0.8, 0.9], got {sparsities!r}")
    for sparsity in sparsities:
        check_sparsity("sparsities", sparsity)
    score, criterion, variables = judge(data, metric), criteria.get(criterion), prunable(model, layers)
    settings = {
        **fingerprints(model, data),
        "layers": {path: list(variable.shape) for path, variable in variables.items()},
        "sparsities": sorted(map(float, sparsities)),
        "criterion": _name(criterion),
        "metric": metric,
    }
    points = dict(load_rows(resume, settings, name="sensitivity", row=_point))
    scores = _Scores(model, data, criterion=criterion, variables=variables)
    wanted = [(_BASELINE, 0.0), *((path, float(s)) for path in variables for s in sorted(set(sparsities)))]
    progress = keras.utils.Progbar(len(wanted), unit_name="point")
    for path, sparsity in wanted:
        if (path, sparsity) not in points:
            with _pruned(variables.get(path), sparsity, scores=functools.partial(scores, path)):
                points[path, sparsity] = score(model)
            save_rows(resume, settings, [[*point, value] for point, value in points.items()])
        progress.update(len(points))
    rows = tuple(SensitivityRow(path, s, points[path, s]) for path, s in wanted if path != _BASELINE)
    return Sensitivity(points[_BASELINE, 0.0], rows, metric)


class _Scores:
    """(path, weights) -> scores; gradients are gathered first, if the criterion needs them."""

    def __init__(self, model: Any, data: Any, *, criterion: Any, variables: Any) -> None:
        self._criterion = criterion
        self._gradients = Gradients(criterion)
        self._gradients.watch(variables)
        if self._gradients.gathers:
            if callable(data):
                raise ValueError(
                    f"criterion: expected one that looks at weights alone where data is a function, got {criterion!r}, "
                    "which needs gradients; give data=(x, y)"
                )
            gather_on(model, self._gradients, tuple(data) if isinstance(data, list) else data)

    def __call__(self, path: str, weights: np.ndarray) -> np.ndarray:
        criterion = self._criterion.of(path) if isinstance(self._criterion, criteria.Criterion) else self._criterion
        gathers = self._gradients.gathers
        return np.asarray(criterion(weights, self._gradients.statistic(path)) if gathers else criterion(weights))


_BASELINE = ""  # stands where a path would, for the model as it is


def _point(layer: str, sparsity: float, value: float) -> tuple[tuple[str, float], float]:
    return (layer, float(sparsity)), float(value)


@contextlib.contextmanager
def _pruned(variable: Any, sparsity: float, *, scores: Callable[[np.ndarray], np.ndarray]) -> Iterator[None]:
    """Prunes one variable for a while; nothing for None."""
    if variable is None:
        yield
        return
    before = np.array(variable.numpy())
    try:
        weights = before if before.dtype in (np.float32, np.float64) else before.astype(np.float32)
        variable.assign(np.where(make_mask(scores(weights), sparsity), before, 0))
        yield
    finally:
        variable.assign(before)


def _name(criterion: Any) -> str:
    """What tells one criterion from another."""
    if hasattr(criterion, "get_config"):
        return repr(criterion)
    code = getattr(criterion, "__code__", None)  # one lambda from another
    return getattr(criterion, "__qualname__", "function") + (f" {zlib.crc32(code.co_code):08x}" if code else "")
