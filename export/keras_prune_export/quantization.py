"""What the packed file will compute, in Keras."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import checks, converter, copies, flatbuffer
from keras_prune_export.targets import packed
from keras_prune_export.transformations.pack_fully_connected import Choice, choose


def quantize(model: Any, weights: Codebook | None = None, *, min_sparsity: float = 0.1, in_place: bool = False) -> Any:
    """Gives the pruned weights of a model the values that its packed file computes with.

    The model is converted as for export, and each matrix that would be packed is found again among the model's
    variables by its values. Where the converter folds a neighbour's scale into a kernel (BatchNormalization,
    Rescaling), the folded kernel is what is quantized, and the variable gets the values that fold into it. The
    predictions are those of `export_tflite`'s file, up to the rounding of the model's own type. Exporting the result
    gives the same packed bytes and biases again; where a scale is folded, up to float32 rounding.

    Args:
        model: a built Keras 3 model.
        weights: how kept weights are quantized; ``Codebook()`` (4 bits) by default. Zeros stay exactly zero.
        min_sparsity: a matrix is pruned when at least this fraction of it is exactly zero, 0 to 1.
        in_place: change and return ``model`` itself; by default a copy.

    Returns:
        The model with quantized weights; unchanged weights where nothing would be packed.

    Raises:
        TypeError: not a Keras 3 model, or ``weights`` is not a `Codebook`.
        ValueError: the model is not built, cannot be copied or converted, has NaN or infinite weights or pruned ones
            that are not zero, an argument is out of range, or the converter changed a pruned matrix so that it cannot
            be found.

    Example:
        >>> quantized = keras_prune.quantize(model, keras_prune.Codebook(bits=4))  # doctest: +SKIP
    """
    weights = Codebook() if weights is None else weights
    checks.check_options(weights, min_sparsity, "quantize")
    checks.check_model(model, "quantize")
    checks.check_masks(model, "quantize")
    file = flatbuffer.read(converter.convert(model))
    result = model if in_place else _copy(model, file)
    matches = find(result, choose(file, weights, min_sparsity=min_sparsity))
    for match in matches:
        if not match.changes:
            raise ValueError(
                f"quantize: the file's matrix {match.name!r} is none of the model's variables, nor one with scaled "
                "rows or columns: the converter combined it with others; export works, quantize does not"
            )
    for match in matches:
        for variable, values in match.changes:
            variable.assign(values)
    return result


def _copy(model: Any, file: Any) -> Any:
    """A copy that the converter turns into the same file: that its weights are the same would not show it."""
    try:
        copy = copies.copy(model)
    except Exception as error:
        raise ValueError(
            f"quantize: the model {model.name!r} cannot be copied ({error}); copy it yourself and pass in_place=True"
        ) from error
    if flatbuffer.content(flatbuffer.read(converter.convert(copy))) != flatbuffer.content(file):
        raise ValueError(
            f"quantize: expected a copy of {model.name!r} that computes what the model does, and a layer of the copy "
            "does not: it holds values outside its weights and configuration; copy it yourself and pass in_place=True"
        )
    return copy


@dataclasses.dataclass
class Match:
    """A matrix that the file will pack, found among the model's variables.

    Attributes:
        name: of the matrix in the file.
        changes: the variables that it came from, each with its quantized values; empty when there are none.
        folded: the converter scaled the variable's rows or columns.
        quantized: the matrix has its quantized values already, up to float32 rounding.
    """

    name: str
    changes: list[tuple[Any, np.ndarray]]
    folded: bool
    quantized: bool


def find(model: Any, choices: list[Choice]) -> list[Match]:
    """Finds the matrices that will be packed among the variables that they were made of.

    Args:
        model: Keras model.
        choices: for the file that the converter made from it.

    Returns:
        One match for each matrix that will be packed and has a weight at all.
    """
    matches = []
    for choice in choices:
        if choice.packed is not None and choice.values is not None and choice.values.any():
            quantized = sparse_format.to_dense(choice.packed)
            same = _changes(model, choice.values, quantized, pull_back=_pull_back_same)
            changes = same or _changes(model, choice.values, quantized, pull_back=_pull_back_scaled)
            already = np.allclose(quantized, choice.values, rtol=packed.ROUNDING, atol=0)
            matches.append(Match(choice.name, changes, folded=not same and bool(changes), quantized=already))
    return matches


@contextlib.contextmanager
def assigned(matches: list[Match]) -> Iterator[None]:
    """Gives the variables their quantized values for a while."""
    changes = [change for match in matches for change in match.changes]
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
        for variable, values in changes:
            variable.assign(values)
        yield
    finally:
        for variable, values in reversed(before):
            variable.assign(values)


def _changes(
    model: Any, dense: np.ndarray, quantized: np.ndarray, *, pull_back: Callable[..., np.ndarray | None]
) -> list[tuple[Any, np.ndarray]]:
    changes = []
    for variable in model.variables:
        if "float" in str(variable.dtype) and math.prod(variable.shape) == dense.size:
            values = variable.numpy()
            changed = pull_back(values.astype(np.float32), dense, quantized)
            if changed is not None:
                changes.append((variable, changed.astype(values.dtype)))
    return changes


def _pull_back_same(values: np.ndarray, dense: np.ndarray, quantized: np.ndarray) -> np.ndarray | None:
    """New values of a variable that holds the matrix's weights in any order: a weight's code depends on its value."""
    kept, kept_dense = values != 0, dense != 0
    if np.count_nonzero(kept) != np.count_nonzero(kept_dense):
        return None
    order, order_dense = np.argsort(values[kept]), np.argsort(dense[kept_dense])
    if not np.array_equal(values[kept][order], dense[kept_dense][order_dense]):
        return None
    new = np.empty(len(order), np.float32)
    new[order] = quantized[kept_dense][order_dense]
    result = np.zeros_like(values)
    result[kept] = new
    return result


def _pull_back_scaled(values: np.ndarray, dense: np.ndarray, quantized: np.ndarray) -> np.ndarray | None:
    """New values of a kernel whose rows or columns the converter scaled: its zeros stand where the matrix has them."""
    if values.ndim != 2 or values.T.shape != dense.shape or not np.array_equal(values.T != 0, dense != 0):
        return None
    ratios = np.divide(quantized, dense, out=np.zeros(dense.shape), where=dense != 0, dtype=np.float64)
    return (values * ratios.T).astype(np.float32)
