"""Typical inputs in the form in which TensorFlow's converter takes them, for files that compute in integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer, model_inputs
from keras_prune_export.flatbuffer import schema
from keras_prune_export.source_folder import SourceFolder

MOST_EXAMPLES = 300  # as the converter's guide advises: 100 to 500


def of_model(model: Any, data: Any) -> Callable[[], Iterator[Any]] | None:
    """For a Keras model.

    Args:
        model: built.
        data: (examples, ...) for a model with one input, or a function that yields lists of inputs; None: none.

    Returns:
        A function that yields lists of inputs.

    Raises:
        ValueError: the data is nothing of this, or does not fit the model.
    """
    inputs = list(getattr(model, "inputs", None) or [])
    if data is None or callable(data):
        return _function(data)
    if len(inputs) > 1:
        raise ValueError(
            f"convert: expected representative_data as a function, as the model {model.name!r} has {len(inputs)} "
            f"inputs, got {type(data).__name__}; pass a function that yields lists of inputs"
        )
    if not inputs:
        return _one_by_one(np.asarray(data), "float32")
    details = model_inputs.of_keras(inputs[0])
    try:
        (examples,) = model_inputs.arrays_for([details], data)
    except ValueError as error:
        raise ValueError(f"convert: representative_data: {str(error).removeprefix('x: ')}") from error
    return _one_by_one(examples, "float32" if "float" in str(inputs[0].dtype) else str(inputs[0].dtype))


def of_folder(folder: SourceFolder, data: Any) -> Callable[[], Iterator[Any]] | None:
    """For a SavedModel, as `of_model`."""
    if data is None or callable(data):
        return _function(data)
    inputs = [dtype for signature in folder.signatures.values() for dtype in signature.values()]
    if len(inputs) != 1:
        raise ValueError(
            f"convert: expected representative_data as a function, as {folder.path} has {len(inputs)} inputs in "
            f"{len(folder.signatures)} signatures, got {type(data).__name__}; pass a function that yields lists of "
            "inputs, or with several signatures pairs (signature, {input: array})"
        )
    return _one_by_one(np.asarray(data), inputs[0])


def check_integers(data: bytes, name: str) -> None:
    """Refuses a file that the converter left in floating point, which it does without a word.

    Args:
        data: the .tflite file.
        name: of the model.

    Raises:
        ValueError: no tensor has 8 bits.
    """
    tensors = [tensor for graph in flatbuffer.read(data).subgraphs for tensor in graph.tensors or ()]
    if all(tensor.type not in (schema.TensorType.INT8, schema.TensorType.UINT8) for tensor in tensors):
        raise ValueError(
            f"convert: expected representative_data that gives the tensors of {name!r} finite ranges, and the "
            "converter found none; pass some hundred typical inputs, without NaN or infinity"
        )


def _function(data: Callable[[], Any] | None) -> Callable[[], Iterator[Any]] | None:
    """The user's function, called once before the converter does, which would not say what it returned."""
    if data is None:
        return None
    function = data
    try:
        first = [model_inputs.yielded(function)]
    except ValueError as error:
        raise ValueError(f"convert: representative_data: {error}") from error
    return lambda: first.pop() if first else model_inputs.yielded(function)


def _one_by_one(examples: np.ndarray, dtype: str) -> Callable[[], Iterator[Any]]:
    if examples.ndim == 0 or len(examples) == 0 or not np.can_cast(examples.dtype, np.float64, "same_kind"):
        raise ValueError(
            "convert: expected representative_data of real numbers of shape (examples, ...), at least one example, "
            f"got an array of {examples.dtype} of shape {examples.shape}"
        )
    if not np.isfinite(examples.astype(np.float64)).all():
        raise ValueError("convert: expected finite numbers as representative_data, got NaN or infinity")
    used = examples[:MOST_EXAMPLES].astype(dtype)
    return lambda: iter([[used[index : index + 1]] for index in range(len(used))])
