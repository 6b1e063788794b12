"""Static int8 activations in Keras: the largest input that each layer gets from typical inputs of its model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_prune.hooks import stand_around
from keras_prune_export import calibration, model_inputs
from keras_prune_export.activations import Activations


def input_scales(model: Any, layers: Sequence[Any], activations: Activations) -> list[float]:
    """One step of x for each layer: ``max|x| / 127`` over all of its calls.

    Args:
        model: Sequential or functional, in float32.
        layers: those of it, at any depth.
        activations: with representative data: (examples, ...) of which 300 are used, for several inputs a list in the
            model's order or a dict by name; or a function that yields such lists or dicts.

    Returns:
        In the order of the layers, float32.

    Raises:
        ValueError: the data does not fit the model, or a layer gets none, or only zeros, or values that are not finite.
    """
    largest: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(_observed(layer, largest))
        try:
            for inputs in _inputs(model, activations.representative_data):
                model(inputs, training=False)
        except ValueError as error:
            problem = str(error).removeprefix("x: ")
            raise ValueError(f"{activations.function}: representative_data: {problem}") from error
    return [calibration.step(largest.get(id(layer)), repr(layer.name), activations.function) for layer in layers]


def _observed(layer: Any, largest: dict[int, float]) -> Any:
    """Notes the layer's largest input from now on, until what is returned is called."""

    def around(call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = np.abs(np.asarray(inputs, np.float32)).max(initial=0)
        largest[id(layer)] = float(np.maximum(largest.get(id(layer), 0), found))  # NaN stays
        return call(inputs, *args, **kwargs)

    return stand_around(layer, "call", around)


def _inputs(model: Any, data: Any) -> Iterator[Any]:
    """Batches in the structure that the model takes."""
    import keras  # noqa: PLC0415

    details = [model_inputs.of_keras(tensor) for tensor in model.inputs]
    for arrays in _arrays(details, data):
        tensors = [keras.ops.convert_to_tensor(a, t.dtype) for a, t in zip(arrays, model.inputs, strict=True)]
        # Before its first call a Sequential model has no ``input``.
        is_one = isinstance(model, keras.Sequential)
        yield tensors[0] if is_one else keras.tree.pack_sequence_as(model.input, tensors)


def _arrays(details: Sequence[dict[str, Any]], data: Any) -> Iterator[list[np.ndarray]]:
    """One array for each input, a batch at a time."""
    if callable(data):
        for inputs in model_inputs.yielded(data):
            yield model_inputs.arrays_for(details, inputs)
        return
    fixed = {detail["shape_signature"][0] for detail in details} - {-1}
    yield from calibration.batches(model_inputs.arrays_for(details, data), max(fixed, default=None))
