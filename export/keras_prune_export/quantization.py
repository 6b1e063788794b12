"""What the packed file will compute, in Keras."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_prune.quantization import ROUNDING
from keras_prune_export import bias_correction, checks, converter, copies, flatbuffer, packing
from keras_prune_export.origins import Origin, Origins, names
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations.choose import Choice, choose


def quantize(
    model: Any, weights: Any = None, *, data: Any = None, min_sparsity: float = 0.1, in_place: bool = False
) -> Any:
    """Gives the pruned weights of a model the values that its packed file computes with.

    The model is converted as for export, and each matrix that would be packed is found again among the model's
    variables by its values. Where the converter folds a neighbour's scale into a kernel (BatchNormalization,
    Rescaling), the folded kernel is what is quantized, and the variable gets the values that fold into it. The
    predictions are those of `export_tflite`'s file, up to the rounding of the model's own type. Exporting the result
    gives the same packed bytes and biases again; where a scale is folded, up to float32 rounding.

    Args:
        model: a built Keras 3 model.
        weights: how kept weights are quantized, as in `export_tflite`. Zeros stay exactly zero.
        data: typical inputs, (examples, ...), of which 500 are used: biases are corrected by what quantization takes
            from the mean of each output (`export_tflite` of the result stores them). None: biases stay.
        min_sparsity: a weight is pruned when at least this fraction of it is exactly zero, 0 to 1.
        in_place: change and return ``model`` itself; by default a copy.

    Returns:
        The model with quantized weights; unchanged weights where nothing would be packed.

    Raises:
        TypeError: not a Keras 3 model, or ``weights`` is none of `export_tflite`'s.
        ValueError: the model is not built, cannot be copied or converted, has NaN or infinite weights or pruned ones
            that are not zero, an argument is out of range, or the converter changed a pruned matrix so that it cannot
            be found.

    Example:
        >>> quantized = keras_prune.quantize(model, keras_prune.Codebook(bits=4))  # doctest: +SKIP
    """
    schemes = Schemes(weights, min_sparsity, "quantize")
    checks.check_model(model, "quantize")
    checks.check_masks(model, "quantize")
    file = packing.load(converter.convert(model), "quantize")
    result = model if in_place else _copy(model, file)
    matches = find(result, choose(file, schemes, names(result, file)))
    for match in matches:
        if not match.changes:
            raise ValueError(
                f"quantize: the file's matrix {match.name!r} is none of the model's variables, nor one with scaled "
                "rows or columns: the converter combined it with others; export works, quantize does not"
            )
    changes = [change for match in matches for change in match.changes]
    before = {id(variable): variable.numpy() for variable, _ in changes}
    for variable, values in changes:
        variable.assign(values)
    if data is not None:
        bias_correction.correct(result, data, before=before)
    return result


def _copy(model: Any, file: Any) -> Any:
    """A copy that the converter turns into the same file: that its weights are the same would not show it."""
    try:
        copy = copies.copy(model)
    except Exception as error:
        raise ValueError(
            f"quantize: the model {model.name!r} cannot be copied ({error}); copy it yourself and pass in_place=True"
        ) from error
    if flatbuffer.content(packing.load(converter.convert(copy), "quantize")) != flatbuffer.content(file):
        raise ValueError(
            f"quantize: expected a copy of {model.name!r} that computes what the model does, and a layer of the copy "
            "does not: it holds values outside its weights and configuration; copy it yourself and pass in_place=True"
        )
    return copy


@dataclasses.dataclass
class Match:
    """Weights that the file will quantize, found among the model's variables.

    Attributes:
        name: of the weights in the file.
        changes: the variables that they came from, each with its quantized values; empty when there are none.
        folded: the converter scaled the variable's rows or columns.
        quantized: the weights have their quantized values already, up to float32 rounding.
    """

    name: str
    changes: list[tuple[Any, np.ndarray]]
    folded: bool
    quantized: bool


def find(model: Any, choices: list[Choice]) -> list[Match]:
    """Finds the weights that will be quantized among the variables that they were made of.

    Args:
        model: Keras model.
        choices: for the file that the converter made from it.

    Returns:
        One match for the weights of each choice that changes any.
    """
    found, matches = Origins(model), []
    for choice in choices:
        if choice.packed is not None and not choice.is_exact and choice.values is not None and choice.values.any():
            quantized = choice.quantized
            origins = found.find(choice.values)
            changes = [(origin.variable, _pulled_back(origin, choice.values, quantized)) for origin in origins]
            already = np.allclose(quantized, choice.values, rtol=ROUNDING, atol=0)
            folded = any(origin.kind != "same" for origin in origins)
            matches.append(Match(choice.name, changes, folded=folded, quantized=already))
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


def _pulled_back(origin: Origin, dense: np.ndarray, quantized: np.ndarray) -> np.ndarray:
    """The values of a variable that the converter turns into the quantized weights."""
    if origin.kind == "same":
        return origin.from_file(quantized.reshape(-1)).astype(str(origin.variable.dtype))
    values, dense = origin.to_file(origin.values), dense.reshape(-1)
    # Where the converter's scale is zero, any value will do: the old one.
    ratios = np.divide(quantized.reshape(-1), dense, out=np.ones(dense.shape), where=dense != 0, dtype=np.float64)
    return origin.from_file((values * ratios).astype(np.float32)).astype(str(origin.variable.dtype))
