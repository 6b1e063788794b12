"""What the packed file will compute, in Keras."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import converter, flatbuffer
from keras_prune_export.tflite import check_options
from keras_prune_export.transformations.pack_fully_connected import choose


def quantize(model: Any, weights: Codebook | None = None, *, min_sparsity: float = 0.1, in_place: bool = False) -> Any:
    """Gives the pruned weights of a model the values that its packed file computes with.

    The model is converted as for export, and each matrix that would be packed is found again among the model's
    variables by its values. Where the converter folds a neighbour's scale into a kernel (BatchNormalization,
    Rescaling), the folded kernel is what is quantized, and the variable gets the values that fold into it: the
    predictions are the file's, up to float rounding. Exporting the result packs the same values again.

    Args:
        model: a built Keras 3 model.
        weights: how kept weights are quantized; ``Codebook()`` (4 bits) by default. Zeros stay exactly zero.
        min_sparsity: a matrix is pruned when at least this fraction of it is exactly zero, 0 to 1.
        in_place: change and return ``model`` itself; by default a copy.

    Returns:
        The model with quantized weights; unchanged weights where nothing would be packed.

    Raises:
        TypeError: not a Keras 3 model, or ``weights`` is not a `Codebook`.
        ValueError: the model is not built, cannot be copied or converted, an argument is out of range, or the
            converter changed a pruned matrix so that it cannot be found.

    Example:
        >>> quantized = keras_prune.quantize(model, keras_prune.Codebook(bits=4))  # doctest: +SKIP
    """
    weights = Codebook() if weights is None else weights
    check_options(weights, min_sparsity, "quantize")
    converter.check_model(model, "quantize")
    file = flatbuffer.read(converter.convert(model))
    result = model if in_place else _copy(model)
    changes = []
    for choice in choose(file, weights, min_sparsity=min_sparsity):
        if choice.packed is not None and choice.values is not None and choice.values.any():
            changes += _changes(result, choice.values, sparse_format.to_dense(choice.packed), name=choice.name)
    for variable, values in changes:  # only now: an error above leaves an in-place model as it was
        variable.assign(values)
    return result


def _copy(model: Any) -> Any:
    import keras  # noqa: PLC0415

    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    except Exception as error:
        raise ValueError(
            f"quantize: the model {model.name!r} cannot be copied ({error}); copy it yourself and pass in_place=True"
        ) from error
    return copy


def _changes(model: Any, dense: np.ndarray, quantized: np.ndarray, *, name: str) -> list[tuple[Any, np.ndarray]]:
    """The variables that became one matrix of the file, each with its new values."""
    variables = [v for v in model.variables if np.prod(v.shape, dtype=np.int64) == dense.size and "float" in v.dtype]
    for pull_back in (_pull_back_same, _pull_back_scaled):
        found = [(v, pull_back(np.asarray(v.numpy(), np.float32), dense, quantized)) for v in variables]
        changes = [(variable, values) for variable, values in found if values is not None]
        if changes:
            return changes
    raise ValueError(
        f"quantize: the file's matrix {name!r} {dense.shape} is none of the model's variables, nor one of them with "
        "scaled rows or columns: the converter combined it with a neighbour; export works, quantize does not"
    )


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
