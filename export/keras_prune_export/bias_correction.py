"""Biases that make up for what quantization does to the mean of each output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_prune.layer_axes import layers_within

# As many as the converter's guide advises for calibration; they go through the model in one batch.
MOST_EXAMPLES = 500


def correct(model: Any, data: Any, *, before: dict[int, np.ndarray]) -> list[str]:
    """Adds to each bias what the quantization of its layer's kernel takes from the mean of its outputs.

    ``b <- b + E[W x] - E[W_q x]``, over examples and positions, for the inputs x that the layer gets in the quantized
    model; the layers come in the order in which data passes them, so that each sees the corrected ones before it. A
    layer without a bias, before a BatchNormalization, has it subtracted from the moving mean there.

    Args:
        model: the quantized model, changed in place.
        data: inputs, (examples, ...), or as the model takes them; the first 500 are used.
        before: ``id(variable)`` -> values before quantization, of each variable that it changed.

    Returns:
        The paths of the variables that were corrected.

    Nagel, van Baalen, Blankevoort and Welling 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction" (https://arxiv.org/abs/1906.04721), section 4.2 and appendix D.
    """
    correction = _Correction(before)
    layers = list(layers_within(model))
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if correction.concerns(layer):
                stack.enter_context(_replaced_call(layer, correction))
        model(_examples(data), training=False)
    return correction.paths


def _examples(data: Any) -> Any:
    import keras  # noqa: PLC0415

    return keras.tree.map_structure(lambda values: np.asarray(values)[:MOST_EXAMPLES], data)


@contextlib.contextmanager
def _replaced_call(layer: Any, correction: _Correction) -> Iterator[None]:
    """The layer computes and is corrected at its first call, for a while."""
    call = layer.call

    def corrected(*args: Any, **kwargs: Any) -> Any:
        correction.pass_through(layer, call, args, kwargs=kwargs)
        result = call(*args, **kwargs)
        correction.note(layer, result)
        return result

    object.__setattr__(layer, "call", corrected)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


class _Correction:
    """Corrects one layer after the other while data passes through the model."""

    def __init__(self, before: dict[int, np.ndarray]) -> None:
        self.paths: list[str] = []
        self._before = before
        self._done: set[int] = set()
        self._open: dict[int, tuple[Any, np.ndarray]] = {}  # outputs of layers without bias, and their shift

    def concerns(self, layer: Any) -> bool:
        """Whether a layer is to be corrected, or can take the shift of the one before it."""
        import keras  # noqa: PLC0415

        if isinstance(layer, keras.layers.BatchNormalization):
            return True
        has_outputs = hasattr(layer, "bias") and hasattr(layer, "activation")
        return has_outputs and any(id(variable) in self._before for variable in _kernels(layer))

    def pass_through(self, layer: Any, call: Any, args: tuple[Any, ...], *, kwargs: dict[str, Any]) -> None:
        """Measures and corrects a layer with the inputs of its first call."""
        import keras  # noqa: PLC0415

        if id(layer) in self._done:
            return
        self._done.add(id(layer))
        if isinstance(layer, keras.layers.BatchNormalization):
            _, shift = self._open.get(id(args[0]), (None, None)) if args else (None, None)
            if shift is not None:
                self._add(layer.moving_mean, -shift)
            return
        shift = _shift(layer, call, args, kwargs=kwargs, before=self._before)
        if layer.bias is None:
            self._shift = shift
        else:
            self._add(layer.bias, shift)

    def note(self, layer: Any, result: Any) -> None:
        """Remembers whose outputs these are, for a BatchNormalization that takes them as they are."""
        shift = self.__dict__.pop("_shift", None)
        if shift is not None and _is_linear(layer) and getattr(layer, "data_format", "") != "channels_first":
            self._open[id(result)] = (result, shift)  # kept, so that no other gets its id

    def _add(self, variable: Any, shift: np.ndarray) -> None:
        variable.assign(variable.numpy() + _like(shift, variable.shape).astype(str(variable.dtype)))
        self.paths.append(variable.path)


def _kernels(layer: Any) -> list[Any]:
    return [
        v for v in layer.trainable_variables + layer.non_trainable_variables if v is not getattr(layer, "bias", None)
    ]


def _is_linear(layer: Any) -> bool:
    import keras  # noqa: PLC0415

    return layer.activation in (None, keras.activations.linear)


def _shift(layer: Any, call: Any, args: tuple[Any, ...], *, kwargs: dict[str, Any], before: Any) -> np.ndarray:
    """Mean of the outputs before the activation, of the float kernels less the quantized: (..., channels)."""
    import keras  # noqa: PLC0415

    activation = layer.activation
    changed = [(variable, variable.numpy()) for variable in _kernels(layer) if id(variable) in before]
    layer.activation = None
    try:
        quantized = call(*args, **kwargs)
        for variable, _ in changed:
            variable.assign(before[id(variable)])
        full = call(*args, **kwargs)
    finally:
        layer.activation = activation
        for variable, values in changed:
            variable.assign(values)
    difference = keras.ops.convert_to_numpy(full).astype(np.float64) - keras.ops.convert_to_numpy(quantized)
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        difference = np.moveaxis(difference, 1, -1)
    return difference.mean(axis=0)


def _like(shift: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mean over the axes that a bias of this shape does not tell apart."""
    padded = (1,) * (shift.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, size in enumerate(padded) if size == 1 and shift.shape[axis] != 1)
    return shift.mean(axis=axes, keepdims=True).reshape(shape)
