"""On which axes a layer's kernels count their outputs: by its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_prune.kernel_axes import OutputAxes

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def set_output_axes(model: Any, variables: Mapping[str, Any]) -> None:
    """Tells each mask on which axes its kernel counts outputs, for patterns that leave it open.

    Args:
        model: a Keras 3 model that has been built.
        variables: path -> kernel with a mask.
    """
    axes = output_axes(model)
    for variable in variables.values():
        variable.constraint.output_axes = axes.get(id(variable), -1)


def output_axes(model: Any) -> dict[int, OutputAxes]:
    """The axes of the kernels whose outputs are not (only) on the last one.

    ``(..., outputs, inputs)`` in transposed convolutions, ``(..., inputs, multiplier)`` in depthwise ones, of which
    each output has its own input, and what the equation says in `EinsumDense`, which attention is made of.

    Args:
        model: a Keras 3 model that has been built, or a layer.

    Returns:
        ``id(variable)`` -> its axes, negative.

    Example:
        >>> import keras
        >>> layer = keras.layers.MultiHeadAttention(2, 4)
        >>> layer.build((None, 5, 8), (None, 5, 8))
        >>> axes = output_axes(layer)
        >>> [axes.get(id(v), -1) for v in layer.weights if v.name == "kernel"]
        [(-2, -1), (-2, -1), (-2, -1), -1]
    """
    found = {}
    for layer in layers_within(model):
        names = _axes(layer)
        # Not those of a layer in it; and in older Keras they are no instances of keras.Variable.
        attributes = {id(value) for value in vars(layer).values()}
        own = [variable for variable in layer.weights if id(variable) in attributes] if names else []
        found.update({id(variable): names[variable.name] for variable in own if variable.name in names})
    return found


def layers_within(layer: Any) -> Iterator[Any]:
    """A layer or model and all layers in it, at any depth, each once."""
    seen: set[int] = set()
    open_values: list[Any] = [layer]
    while open_values:
        value = open_values.pop()
        if id(value) in seen or not isinstance(value, (keras.Layer, Mapping, list, tuple, set)):
            continue
        seen.add(id(value))
        if isinstance(value, keras.Layer):
            yield value
            value = vars(value)
        open_values.extend(value.values() if isinstance(value, Mapping) else value)


def _axes(layer: Any) -> dict[str, OutputAxes]:
    """Names of a layer's own weights -> their axes, where these are not the last one."""
    if isinstance(layer, _TRANSPOSED):
        return {"kernel": -2}
    if isinstance(layer, _DEPTHWISE):
        return {"kernel": (-2, -1)}
    if isinstance(layer, _SEPARABLE):
        return {"depthwise_kernel": (-2, -1)}
    if isinstance(layer, keras.layers.EinsumDense):
        return {"kernel": _of_equation(layer.equation)}
    return {}


def _of_equation(equation: str) -> OutputAxes:
    """The axes of the second operand that the result has too: ``"abc,cde->abde"`` -> (-2, -1)."""
    kernel, outputs = _kernel_letters(equation), output_letters(equation)
    axes = tuple(axis - len(kernel) for axis, letter in enumerate(kernel) if letter in outputs)
    if len(axes) in (1, len(kernel)):  # without any inputs, as in a product of each with each, the last will do
        return axes[-1]
    return axes


def output_letters(equation: str) -> str:
    """The letters of an `EinsumDense` kernel that the result has too: ``"abc,cde->abde"`` -> ``"de"``."""
    return "".join(letter for letter in _kernel_letters(equation) if letter in equation.split("->")[1])


def _kernel_letters(equation: str) -> str:
    """The letters of the second operand."""
    return equation.replace(" ", "").split("->")[0].split(",")[1]
