"""How many bits each layer's codes get, under a budget of bytes or of accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_prune import tensor_format
from keras_prune.analysis.judge import judge
from keras_prune.kernel_axes import to_rows
from keras_prune.layer_axes import output_axes
from keras_prune.masks import is_kernel, named
from keras_prune.quantization import Codebook
from keras_prune.wrappers import without_masks
from keras_prune_export import checks, quantization, tflite
from keras_prune_export.progress import Progress

_ROUNDING = 1e-6  # accuracies are float32: one that is just at the limit may lie below it by its rounding


@dataclasses.dataclass(frozen=True)
class Option:
    """One layer with one number of bits, the others as they are.

    Attributes:
        bits: of a code.
        num_bytes: of the packed weights.
        damage: by how much the loss rises (where data is a function: by how much its number falls).
    """

    bits: int
    num_bytes: int
    damage: float


@dataclasses.dataclass(frozen=True)
class BitBudget(Mapping[str, Codebook]):
    """The bits of each layer, as a mapping for ``weights=``; ``str`` is the table of what was measured.

    Attributes:
        bits: weight's path -> bits of its codes.
        options: weight's path -> what each number of bits was measured to cost.
        baseline: accuracy of the model as it is.
        accuracy: of the file: of all layers quantized together.
        num_bytes: of the file.
    """

    bits: dict[str, int]
    options: dict[str, tuple[Option, ...]]
    baseline: float
    accuracy: float
    num_bytes: int

    def __getitem__(self, path: str) -> Codebook:
        return Codebook(self.bits[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self.bits)

    def __len__(self) -> int:
        return len(self.bits)

    def __str__(self) -> str:
        numbers = sorted({option.bits for row in self.options.values() for option in row})
        rows = [["layer", "bits", "bytes", *(f"damage at {bits}" for bits in numbers)]]
        for path, options in self.options.items():
            chosen = next(option for option in options if option.bits == self.bits[path])
            damages = {option.bits: f"{option.damage:+.5f}" for option in options}
            rows.append([path, str(chosen.bits), f"{chosen.num_bytes:,}", *(damages[bits] for bits in numbers)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        summary = f"{self.num_bytes:,} bytes of file, accuracy {self.accuracy:.4f} of {self.baseline:.4f}"
        return "\n".join([*lines, summary])


def choose_bits(
    model: Any,
    data: Any,
    *,
    max_bytes: int | None = None,
    accuracy_drop: float | None = None,
    bits: Iterable[int] = range(2, 9),
    metric: str = "accuracy",
    min_sparsity: float = 0.1,
) -> BitBudget:
    """Chooses the bits of each pruned layer's codebook: the best file of so many bytes, or the smallest good one.

    Each layer is quantized alone with each number of bits, and the rise of the loss is measured. From the fewest bits
    everywhere, the step that lowers ``sum of damages`` most for each byte is taken, again and again (the lower convex
    hull of each layer: Shoham and Gersho 1988). The last file within ``max_bytes``, or the first that keeps the
    accuracy, found by bisection, is the result; it is measured with all layers together as it will be stored. The
    model is left as it was, and the result is the same in every run.

    Args:
        model: a Keras 3 model, pruned and compiled.
        data: ``(x, y)`` or a dataset, not that of the final test; or a function model -> number, higher is better.
        max_bytes: size of the .tflite file.
        accuracy_drop: what may be lost against the model as it is, >= 0; 0.001 is a tenth of a point of percent.
        bits: which to try, each 2 to 8.
        metric: what "accuracy" means, by the name that the model was compiled with; left aside for a function.
        min_sparsity: a layer is pruned when at least this fraction of its weights is exactly zero.

    Returns:
        The mapping, for ``export_tflite(model, weights=...)`` and `quantize`; printing it shows a table.

    Raises:
        TypeError: the model or the data are not of the expected kind.
        ValueError: not exactly one budget, an argument is out of range, nothing is pruned, or no choice of bits keeps
            within the budget.

    Example:
        >>> weights = keras_prune.choose_bits(model, (x_val, y_val), accuracy_drop=0.001)  # doctest: +SKIP
        >>> keras_prune.export_tflite(model, "model.tflite", weights=weights)  # doctest: +SKIP

    Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"
    (https://doi.org/10.1109/29.90373); Han, Mao and Dally 2016, figure 7, for bits by layer.
    """
    _check(max_bytes, accuracy_drop)
    numbers = sorted({Codebook(number).bits for number in bits})
    if not numbers:
        raise ValueError("choose_bits: expected at least one number of bits from 2 to 8, got none")
    checks.check_model(model, "choose_bits")
    checks.check_masks(model, "choose_bits")
    search = _Search(model, data, metric=metric, min_sparsity=min_sparsity)
    path = _path(search.options(numbers))
    if max_bytes is not None:
        return search.largest_within(path, max_bytes)
    assert accuracy_drop is not None
    return search.smallest_above(path, search.baseline - accuracy_drop)


def _check(max_bytes: Any, accuracy_drop: Any) -> None:
    if (max_bytes is None) == (accuracy_drop is None):
        raise ValueError(
            f"choose_bits: expected one budget, max_bytes or accuracy_drop, got max_bytes={max_bytes!r} and "
            f"accuracy_drop={accuracy_drop!r}"
        )
    if max_bytes is not None:
        try:
            operator.index(max_bytes)
        except TypeError as error:
            raise TypeError(f"choose_bits: expected max_bytes to be an integer, got {max_bytes!r}") from error
    if accuracy_drop is not None and not accuracy_drop >= 0:
        raise ValueError(f"choose_bits: expected accuracy_drop >= 0, such as 0.001, got {accuracy_drop!r}")


def _path(options: Mapping[str, tuple[Option, ...]]) -> list[dict[str, int]]:
    """Choices of bits from the smallest to the best: each step lowers the damage most for its bytes."""
    hulls = {path: _hull(row) for path, row in options.items()}
    steps = []
    for number, (path, hull) in enumerate(hulls.items()):
        for before, after in itertools.pairwise(hull):
            gain = (before.damage - after.damage) / (after.num_bytes - before.num_bytes)
            steps.append((-gain, number, after.num_bytes, path, after.bits))
    choice = {path: hull[0].bits for path, hull in hulls.items()}
    choices = [dict(choice)]
    for *_, path, bits in sorted(steps):  # gains fall along a hull, so each layer's steps stay in order
        choice[path] = bits
        choices.append(dict(choice))
    return choices


def _hull(options: Iterable[Option]) -> list[Option]:
    """The options that are best for some price of a byte, fewest bytes first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.num_bytes, o.damage)):
        if hull and option.damage >= hull[-1].damage:
            continue
        if hull and option.num_bytes == hull[-1].num_bytes:
            continue
        while len(hull) > 1 and _slope(hull[-2], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(one: Option, other: Option) -> float:
    return (other.damage - one.damage) / (other.num_bytes - one.num_bytes)


class _Search:
    """A model whose layers are quantized for a while, and measured."""

    def __init__(self, model: Any, data: Any, *, metric: str, min_sparsity: float) -> None:
        self.model, self.min_sparsity = model, min_sparsity
        self._score = judge(data, metric)
        self._loss = self._score if callable(data) else judge(data, "loss")
        self._sign = 1 if callable(data) else -1
        self._variables = _pruned(model, min_sparsity)
        self._axes = output_axes(model)
        self.baseline = self._score(model)
        self._options: dict[str, tuple[Option, ...]] = {}

    def options(self, numbers: list[int]) -> dict[str, tuple[Option, ...]]:
        """Measures each layer alone with each number of bits."""
        before = self._sign * self._loss(self.model)
        progress = Progress("choose_bits", len(self._variables) * len(numbers))
        for path, variable in self._variables.items():
            row = []
            for bits in numbers:
                codes, codebook = Codebook(bits).fit(variable.numpy())
                with _assigned({path: (variable, codebook[codes])}):
                    damage = before - self._sign * self._loss(self.model)
                row.append(
                    Option(bits, len(tensor_format.encode_codes(self._matrix(variable, codes), codebook)), damage)
                )
                progress.step()
            self._options[path] = tuple(row)
        return self._options

    def _matrix(self, variable: Any, codes: np.ndarray) -> np.ndarray:
        """The codes as the file has them, rows of outputs."""
        return np.ascontiguousarray(to_rows(codes, self._axes.get(id(variable), -1)))

    def largest_within(self, path: list[dict[str, int]], max_bytes: int) -> BitBudget:
        """The last choice whose file has at most so many bytes."""
        smallest = self._num_bytes(path[0])
        if smallest > max_bytes:
            raise ValueError(
                f"choose_bits: expected max_bytes of at least {smallest}, the file with the fewest bits, got "
                f"{max_bytes}; prune more"
            )
        low, high = 0, len(path)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._num_bytes(path[middle]) <= max_bytes else (low, middle)
        return self._result(path[low], self._measured(path[low]))

    def smallest_above(self, path: list[dict[str, int]], least: float) -> BitBudget:
        """The first choice whose accuracy is at least so high."""
        low, high = -1, len(path) - 1
        best = self._measured(path[high])
        if best < least - _ROUNDING:
            raise ValueError(
                f"choose_bits: expected bits that keep {least:.4f} of the accuracy {self.baseline:.4f}, got {best:.4f} "
                f"with the most; allow more bits or a larger accuracy_drop"
            )
        while high - low > 1:
            middle = (low + high) // 2
            accuracy = self._measured(path[middle])
            if accuracy >= least - _ROUNDING:
                high, best = middle, accuracy
            else:
                low = middle
        return self._result(path[high], best)

    def _measured(self, choice: Mapping[str, int]) -> float:
        """The accuracy of the model that computes what the file will compute."""
        before = [(variable, variable.numpy()) for variable in self.model.weights]
        try:
            quantization.quantize(self.model, _weights(choice), min_sparsity=self.min_sparsity, in_place=True)
            return self._score(self.model)
        finally:
            for variable, values in before:
                variable.assign(values)

    def _num_bytes(self, choice: Mapping[str, int]) -> int:
        return len(tflite.export_tflite(self.model, weights=_weights(choice), min_sparsity=self.min_sparsity))

    def _result(self, choice: dict[str, int], accuracy: float) -> BitBudget:
        ordered = {path: weights.bits for path, weights in _weights(choice).items()}
        return BitBudget(ordered, self._options, self.baseline, accuracy, self._num_bytes(choice))


def _weights(choice: Mapping[str, int]) -> dict[str, Codebook]:
    """The longest paths first: one path may be the end of another."""
    return {path: Codebook(choice[path]) for path in sorted(choice, key=len, reverse=True)}


def _pruned(model: Any, min_sparsity: float) -> dict[str, Any]:
    found = {
        path: variable
        for path, variable in named(model, without_masks(model.weights)).items()
        if is_kernel(variable) and 1 - np.count_nonzero(variable.numpy()) / math.prod(variable.shape) >= min_sparsity
    }
    if not found:
        raise ValueError(
            f"choose_bits: expected a layer with at least min_sparsity={min_sparsity:g} of its weights pruned, got "
            "none; prune the model first, or pass min_sparsity=0"
        )
    return found


@contextlib.contextmanager
def _assigned(changes: Mapping[str, tuple[Any, np.ndarray]]) -> Iterator[None]:
    """Gives variables other values for a while."""
    before = [(variable, variable.numpy()) for variable, _ in changes.values()]
    try:
        for variable, values in changes.values():
            variable.assign(values)
        yield
    finally:
        for variable, values in before:
            variable.assign(values)
