"""The sparsest model that is still good enough, by bisection with short retraining."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_prune import patterns
from keras_prune.allocation import Allocation
from keras_prune.analysis.judge import judge
from keras_prune.criteria.standardized_magnitude import standard_deviation
from keras_prune.masks import apply_masks, check_model, mask_constraint, named, prunable
from keras_prune.surgery import prune

# Accuracies are float32: one that is just at the limit may lie below it by its rounding.
_ROUNDING = 1e-6
# Weights have hardly anything beyond four standard deviations.
_MAX_QUALITY = 4.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One pruning and retraining.

    Attributes:
        layer: the weight's path; "" where all layers were pruned alike.
        value: the sparsity, or the quality parameter, that was tried.
        sparsity: fraction of zeros that it made among the weights that are pruned, all layers together.
        accuracy: what was measured after retraining.
        accepted: whether it was good enough.
    """

    layer: str
    value: float
    sparsity: float
    accuracy: float
    accepted: bool


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found; ``str`` is the table of its trials.

    Attributes:
        baseline: accuracy of the model as it was.
        accuracy: of the model as it is now: the sparsest that was accepted.
        sparsity: fraction of zeros of that model, among the weights that are pruned.
        qualities: path -> largest quality parameter accepted; empty for `find_sparsity`.
        trials: every pruning and retraining, in order.
    """

    baseline: float
    accuracy: float
    sparsity: float
    qualities: dict[str, float]
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        lines = [["trial", "layer", "value", "sparsity", "accuracy", ""]]
        for number, trial in enumerate(self.trials, 1):
            numbers = [f"{trial.value:.4f}", f"{trial.sparsity:.2%}", f"{trial.accuracy:.4f}"]
            lines.append([str(number), trial.layer, *numbers, "accepted" if trial.accepted else "refused"])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
        return "\n".join([*text, f"{self.sparsity:.2%} zeros, accuracy {self.accuracy:.4f} of {self.baseline:.4f}"])


def find_sparsity(
    model: Any,
    data: Any,
    *,
    fit: Mapping[str, Any] | Callable[[Any], Any],
    accuracy_drop: float = 0.005,
    tolerance: float = 0.01,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SearchResult:
    """Finds the largest sparsity whose accuracy, after short retraining, stays within a stated drop.

    Bisection: each trial begins with the sparsest model accepted so far, prunes it further, retrains and measures.
    In the end the model, its optimizer and its masks are as they were after the last trial that was accepted.

    Args:
        model: a Keras 3 model, trained and compiled; pruned in place.
        data: ``(x, y)`` or a dataset on which the model's ``accuracy`` is measured, not that of training; or a
            function model -> number, higher is better.
        fit: arguments of ``model.fit`` for the retraining of one trial, or a function that trains the model.
        accuracy_drop: what may be lost against the model as it is, >= 0; 0.005 is half a point of percent.
        tolerance: the search ends when the sparsity is known within this, in (0, 1).
        options: arguments of `keras_prune.prune`: ``criterion``, ``pattern``, ``allocation``, ``layers``, ...
        seed: of the random numbers of each retraining (Keras' global seed is set).

    Returns:
        The sparsity, and all trials. Without any trial accepted it is the model's own.

    Raises:
        TypeError: the model, data or fit are not of the expected kind.
        ValueError: a number is out of range.

    Example:
        >>> found = keras_prune.find_sparsity(  # doctest: +SKIP
        ...     model, (x_val, y_val), fit=dict(x=x, y=y, epochs=2), accuracy_drop=0.002)
    """
    options = dict(options or {})
    variables = _check(model, accuracy_drop, tolerance=tolerance, options=options)
    search = _Search(model, judge(data), fit=fit, seed=seed, variables=variables)
    least = search.baseline - accuracy_drop
    low, high = _zero_fraction(variables), patterns.get(options.get("pattern", "unstructured")).max_sparsity
    middle = high if high < 1 else (low + high) / 2  # a pattern's highest, such as 50 % of 2:4, is the likely answer
    while high - low > tolerance:
        accepted = search.attempt(("", middle), least, cut=functools.partial(prune, model, middle, **options))
        low, high = (middle, high) if accepted else (low, middle)
        middle = (low + high) / 2
    return search.result()


def find_quality(
    model: Any,
    data: Any,
    *,
    fit: Mapping[str, Any] | Callable[[Any], Any],
    accuracy_drop: float = 0.005,
    tolerance: float = 0.05,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SearchResult:
    """Finds the largest quality parameter of each layer that stays within a stated accuracy drop.

    A layer loses its weights below a threshold: ``|w| < q * s.d.(w)``, the standard deviation being that of its
    weights when the search begins, as in `StandardizedMagnitude`: there `QualityParameter` makes the same masks. The
    layers come in turn, the largest first, each by bisection with short retraining, while the others keep their masks;
    the i-th of n may use up ``i / n`` of the whole drop.

    Args:
        model: a Keras 3 model, trained and compiled; pruned in place.
        data: as in `find_sparsity`.
        fit: as in `find_sparsity`.
        accuracy_drop: what may be lost by all layers together, >= 0.
        tolerance: the search of a layer ends when its q is known within this, > 0; q lies in [0, 4].
        options: ``layers``: which to prune.
        seed: of the random numbers of each retraining (Keras' global seed is set).

    Returns:
        ``qualities`` by path, and all trials; the model is in the last state that was accepted.

    Raises:
        TypeError: the model, data or fit are not of the expected kind.
        ValueError: a number is out of range, or an option other than ``layers``.

    Example:
        >>> found = keras_prune.find_quality(  # doctest: +SKIP
        ...     model, (x_val, y_val), fit=dict(x=x, y=y, epochs=2), accuracy_drop=0.002)

    Han, Pool, Tran and Dally 2015, section 3 (https://arxiv.org/abs/1506.02626).
    """
    options = dict(options or {})
    if options.keys() - {"layers"}:
        raise ValueError(
            f"options: expected only 'layers', got {sorted(options)}; a threshold on |w| leaves criterion, pattern and "
            "allocation no choice"
        )
    variables = _check(model, accuracy_drop, tolerance=0.5, options=options)
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a number > 0, got {tolerance!r}")
    search = _Search(model, judge(data), fit=fit, seed=seed, variables=variables)
    deviations = {path: standard_deviation(_float32(variable)) for path, variable in variables.items()}
    order = sorted(variables, key=lambda path: -math.prod(variables[path].shape))
    for number, path in enumerate(order, 1):
        least = search.baseline - accuracy_drop * number / len(order)
        low, high = 0.0, _MAX_QUALITY
        while high - low > tolerance:
            middle = (low + high) / 2
            cut = functools.partial(_cut, model, options, path=path, threshold=middle * deviations[path])
            accepted = search.attempt((path, middle), least, cut=cut)
            low, high = (middle, high) if accepted else (low, middle)
        search.qualities[path] = low
    return search.result()


def _check(model: Any, accuracy_drop: float, *, tolerance: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks what both searches take; returns the variables to prune."""
    check_model(model)
    if not accuracy_drop >= 0:
        raise ValueError(
            f"accuracy_drop: expected a number >= 0, such as 0.005 for half a point, got {accuracy_drop!r}"
        )
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: expected a sparsity in (0, 1), got {tolerance!r}")
    if not getattr(model, "compiled", False):
        raise ValueError("model: expected a compiled model, which can be retrained; call model.compile first")
    return prunable(model, options.get("layers"))


def _cut(model: Any, options: Mapping[str, Any], *, path: str, threshold: float) -> None:
    """Prunes one layer below a threshold; the other layers keep exactly the zeros that they have."""
    variables = prunable(model, options.get("layers"))
    sparsities = {other: _zero_fraction({other: variable}) for other, variable in variables.items()}
    # What is all zeros is not pruned, but has not been trained yet.
    sparsities = {other: 0.0 if sparsity == 1 else sparsity for other, sparsity in sparsities.items()}
    weights = np.abs(_float32(variables[path]))
    # At least one weight stays, as everywhere; a sparsity of 1 is none.
    sparsities[path] = min(float(np.mean(weights < threshold)), 1 - 1 / weights.size)
    prune(model, max(sparsities.values()), allocation=_Exactly(sparsities), **options)


@dataclasses.dataclass(frozen=True)
class _Exactly(Allocation):
    """A sparsity for each path; `PerLayer` would take a path for the end of a longer one, too."""

    sparsities: Mapping[str, float]

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The sparsities as they are."""
        del scores, sparsity, final_sparsity
        return dict(self.sparsities)


def _zero_fraction(variables: Mapping[str, Any]) -> float:
    values = [variable.numpy() for variable in variables.values()]
    return 1 - int(sum(map(np.count_nonzero, values))) / sum(value.size for value in values)


def _float32(variable: Any) -> np.ndarray:
    return variable.numpy().astype(np.float32)


class _Search:
    """A model on trial: prune, retrain, measure; keep the new state or go back to the old one."""

    def __init__(self, model: Any, score: Callable[[Any], float], *, fit: Any, seed: int, variables: Any) -> None:
        if not (callable(fit) or isinstance(fit, Mapping)):
            raise TypeError(f"fit: expected a dict of arguments of model.fit, or a function of the model, got {fit!r}")
        self.model, self.score, self.fit, self.seed, self.variables = model, score, fit, seed, variables
        self.baseline = self.accuracy = score(model)
        self.qualities: dict[str, float] = {}
        self.trials: list[Trial] = []

    def attempt(self, trial: tuple[str, float], least: float, *, cut: Callable[[], Any]) -> bool:
        """Prunes by `cut`, retrains and measures; returns whether the accuracy is at least `least`.

        `trial` is the layer's path, or "", and the value that is tried.
        """
        state = _State(self.model)
        accepted = False
        try:
            cut()
            keras.utils.set_random_seed(self.seed)
            self._train()
            apply_masks(self.variables)  # a loop by hand, or averages of weights, may have moved pruned ones
            accuracy, sparsity = self.score(self.model), _zero_fraction(self.variables)
            accepted = accuracy >= least - _ROUNDING
            self.trials.append(Trial(*trial, sparsity, accuracy, accepted))
            self._say(self.trials[-1], least)
        finally:
            if not accepted:
                state.restore()
        if accepted:
            self.accuracy = accuracy
        return accepted

    def result(self) -> SearchResult:
        """What was found."""
        sparsity = _zero_fraction(self.variables)
        return SearchResult(self.baseline, self.accuracy, sparsity, dict(self.qualities), tuple(self.trials))

    def _train(self) -> None:
        if callable(self.fit):
            self.fit(self.model)
        else:
            self.model.fit(**{"verbose": 0, **self.fit})

    def _say(self, trial: Trial, least: float) -> None:
        layer = f"{trial.layer} " if trial.layer else ""
        verdict = "accepted" if trial.accepted else f"refused, below {least:.4f}"
        sys.stderr.write(
            f"trial {len(self.trials)}: {layer}{trial.value:.4f}, {trial.sparsity:.2%} zeros, accuracy "
            f"{trial.accuracy:.4f}: {verdict}\n"
        )
        sys.stderr.flush()


class _State:
    """Weights, masks and the optimizer's variables as they are, to come back to."""

    def __init__(self, model: Any) -> None:
        optimizer = model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)  # else its state of before the first step could not come back
        self._all_ones = [v for v in named(model, model.variables).values() if mask_constraint(v) is None]
        variables = [*model.variables, *optimizer.variables, *_masks(model)]
        self._model = model
        self._values = [(variable, np.array(variable.numpy())) for variable in variables]

    def restore(self) -> None:
        """Gives every variable its value again; masks that were made since then prune nothing."""
        for variable in self._all_ones:
            constraint = mask_constraint(variable)
            if constraint is not None:
                constraint.mask.assign(np.ones(constraint.mask.shape, np.uint8))
        for variable, value in self._values:
            variable.assign(value)


def _masks(model: Any) -> list[Any]:
    constraints = [mask_constraint(variable) for variable in model.variables]
    return [constraint.mask for constraint in constraints if constraint is not None]
