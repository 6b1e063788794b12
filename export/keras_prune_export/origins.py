"""Which variable of a Keras model a constant of its file was made of."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_prune.masks import named
from keras_prune_export import flatbuffer

_SAMPLES = 256  # positions that are compared before whole arrays are
_SPREAD = 1e-4  # relative: a folded scale is computed in float32, by several multiplications
# With so many zeros, and as many others, it is no chance that two weights have them at the same places.
_TELLING = 32


@dataclasses.dataclass(frozen=True)
class Origin:
    """A variable, and how the converter laid it out.

    Attributes:
        path: of the variable in the model.
        variable: the Keras variable.
        values: its values, float32.
        axes: the order of the variable's axes in the constant.
        kind: "same" values, or "rows", "columns" or "folded": with each row, each column, or both, of the constant
            multiplied by a scale.
    """

    path: str
    variable: Any
    values: np.ndarray
    axes: tuple[int, ...]
    kind: str

    def to_file(self, values: np.ndarray) -> np.ndarray:
        """Values of the variable's shape, flat in the constant's order."""
        return values.transpose(self.axes).reshape(-1)

    def from_file(self, flat: np.ndarray) -> np.ndarray:
        """The inverse of `to_file`."""
        shape = [self.values.shape[axis] for axis in self.axes]
        return flat.reshape(shape).transpose(np.argsort(self.axes))


class Origins:
    """The variables of a model, to be found by the values that the converter made of them.

    Args:
        model: a built Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._by_size: dict[int, list[tuple[str, Any]]] = collections.defaultdict(list)
        self._values: dict[int, np.ndarray] = {}
        for path, variable in named(model, model.variables).items():
            if "float" in str(variable.dtype) and len(variable.shape):
                self._by_size[math.prod(variable.shape)].append((path, variable))

    def find(self, constant: np.ndarray) -> list[Origin]:
        """The variables that a constant was made of: those with the same values, else those with scaled ones.

        Args:
            constant: in the file's shape, float.

        Returns:
            Several where variables have the same values; none where the constant was made otherwise.
        """
        if not constant.size or not constant.any():
            return []
        constant = constant.astype(np.float32, copy=False)
        candidates = [(path, v, self._values_of(v)) for path, v in self._by_size.get(constant.size, ())]
        same = [
            Origin(path, variable, values, axes, "same")
            for path, variable, values in candidates
            for axes in itertools.islice(_same(values, constant), 1)
        ]
        if same or constant.ndim < 2:
            return same
        scaled = [
            Origin(path, variable, values, axes, kind)
            for path, variable, values in candidates
            for axes, kind in itertools.islice(_scaled(values, constant), 1)
        ]
        for kind in ("rows", "columns", "folded"):
            found = [origin for origin in scaled if origin.kind == kind]
            if found:
                return found if kind != "folded" or len(found) == 1 else []
        return []

    def _values_of(self, variable: Any) -> np.ndarray:
        if id(variable) not in self._values:
            self._values[id(variable)] = variable.numpy().astype(np.float32)
        return self._values[id(variable)]


def names(model: Any, file: Any) -> dict[int, list[str]]:
    """The paths of the variables that the constants of a file were made of.

    Args:
        model: the Keras model that the converter made the file of.
        file: ``ModelT`` object.

    Returns:
        Buffer -> paths, for the float32 constants that variables were found for.
    """
    origins = Origins(model)
    found = {buffer: origins.find(values) for buffer, values in flatbuffer.float_constants(file).items()}
    return {buffer: [origin.path for origin in each] for buffer, each in found.items() if each}


def _orders(values: np.ndarray) -> Iterator[tuple[int, ...]]:
    """The orders of the axes that are not alike; those of size 1 come first."""
    ones = tuple(axis for axis, size in enumerate(values.shape) if size == 1)
    others = [axis for axis in range(values.ndim) if axis not in ones]
    return (ones + order for order in itertools.permutations(others))


def _samples(values: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the constant, and the variable's values there."""
    moved = values.transpose(axes)
    positions = np.linspace(0, values.size - 1, min(_SAMPLES, values.size)).astype(np.int64)
    return positions, moved[np.unravel_index(positions, moved.shape)]


def _same(values: np.ndarray, constant: np.ndarray) -> Iterator[tuple[int, ...]]:
    """The orders of axes in which a variable's values are the constant's."""
    flat = constant.reshape(-1)
    for axes in _orders(values):
        positions, sample = _samples(values, axes)
        if np.array_equal(sample, flat[positions]) and np.array_equal(values.transpose(axes).reshape(-1), flat):
            yield axes


def _scaled(values: np.ndarray, constant: np.ndarray) -> Iterator[tuple[tuple[int, ...], str]]:
    """The orders of axes in which a variable's values, times scales, are the constant's."""
    positions = _block(constant)
    sample = constant.reshape(-1)[positions]
    telling = _is_telling(constant != 0)
    for axes in _orders(values):
        moved = values.transpose(axes)
        if _may_be_scaled(moved[np.unravel_index(positions, moved.shape)], sample, telling=telling):
            kind = _kind(moved.reshape(constant.shape), constant)
            if kind:
                yield axes, kind


def _block(constant: np.ndarray) -> np.ndarray:
    """Positions of some inputs of some outputs: (rows, columns)."""
    is_depthwise = _is_depthwise(constant)
    number = constant.shape[-1] if is_depthwise else len(constant)
    columns = constant.size // number
    some_rows = np.unique(np.linspace(0, number - 1, 16).astype(np.int64))[:, None]
    some_columns = np.unique(np.linspace(0, columns - 1, 64).astype(np.int64))
    return some_columns * number + some_rows if is_depthwise else some_rows * columns + some_columns


def _may_be_scaled(values: np.ndarray, constant: np.ndarray, *, telling: bool) -> bool:
    """Whether some of a variable's values do not rule it out; cheap, as most candidates are none."""
    if ((values == 0) & (constant != 0)).any():
        return False
    ratios = _ratios(values, constant)
    unknown = not any((np.count_nonzero(~np.isnan(rows), axis=1) > 1).any() for rows in (ratios, ratios.T))
    return bool(telling or unknown or _is_constant(ratios) or _is_constant(ratios.T))


def _ratios(values: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """What each value was multiplied by; NaN where the constant is zero."""
    nothing = np.full(values.shape, np.nan)
    with np.errstate(over="ignore"):
        return np.divide(constant, values, out=nothing, where=(constant != 0) & (values != 0), dtype=np.float64)


def _is_depthwise(constant: np.ndarray) -> bool:
    return constant.ndim == 4 and len(constant) == 1


def _is_telling(kept: np.ndarray) -> bool:
    number = np.count_nonzero(kept)
    return bool(min(number, kept.size - number) >= _TELLING)


def _kind(values: np.ndarray, constant: np.ndarray) -> str:
    """How the constant comes from the values; empty if it does not."""
    kept, there = values != 0, constant != 0
    if (there & ~kept).any():
        return ""
    ratios = _ratios(values, constant)
    # A scale of zero takes whole rows, or columns; where it is one, no weight of it is there any more.
    is_depthwise = _is_depthwise(constant)
    rows = np.moveaxis(ratios, -1, 0) if is_depthwise else ratios
    rows = rows.reshape(len(rows), -1)
    if _is_constant(rows) and _whole(rows, kept if not is_depthwise else np.moveaxis(kept, -1, 0)):
        return "rows"
    if not np.array_equal(kept, there):
        return ""
    columns = ratios.reshape(len(ratios), -1).T
    if _is_constant(columns):
        return "columns"
    return "folded" if _is_telling(kept) else ""


def _whole(rows: np.ndarray, kept: np.ndarray) -> bool:
    """Whether each row has all its weights or none."""
    kept = kept.reshape(rows.shape)
    number = np.count_nonzero(~np.isnan(rows), axis=1)
    return bool(((number == 0) | (number == np.count_nonzero(kept, axis=1))).all())


def _is_constant(rows: np.ndarray) -> bool:
    """Whether the ratios of each row are one number, up to rounding; missing ones are NaN."""
    low = np.where(np.isnan(rows), np.inf, rows).min(axis=1, initial=np.inf)
    high = np.where(np.isnan(rows), -np.inf, rows).max(axis=1, initial=-np.inf)
    several = np.count_nonzero(~np.isnan(rows), axis=1) > 1
    if not several.any():  # one weight a row has any ratio
        return False
    low, high = low[several], high[several]
    return bool((high - low <= _SPREAD * np.maximum(np.abs(low), np.abs(high))).all())
