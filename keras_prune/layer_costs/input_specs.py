"""On what a model is called to see what it computes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def input_specs(model: Any, input_shape: Any) -> Any:
    """A `tf.TensorSpec` for each input, in the model's own structure."""
    known = getattr(model, "inputs", None)
    if input_shape is None and not known:
        raise ValueError(
            f"input_shape: expected the shape of one example, as {type(model).__name__} {model.name!r} does not say "
            "its own, got None; give it without the batch, such as input_shape=(224, 224, 3)"
        )
    if not known:
        return _map_shapes(lambda shape: tf.TensorSpec((1, *shape), keras.config.floatx()), input_shape)
    names = [tensor.name for tensor in known]
    given = [None] * len(known) if input_shape is None else _flat_shapes(input_shape, names)
    specs = [_spec(tensor, shape) for tensor, shape in zip(known, given, strict=True)]
    return specs if len(specs) > 1 else specs[0]


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(size is None or isinstance(size, int) for size in value)


def _map_shapes(function: Any, shapes: Any) -> Any:
    if _is_shape(shapes):
        return function(shapes)
    if isinstance(shapes, dict):
        return {key: _map_shapes(function, value) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return [_map_shapes(function, value) for value in shapes]
    raise ValueError(f"input_shape: expected a shape without the batch, such as (224, 224, 3), got {shapes!r}")


def _flat_shapes(input_shape: Any, names: list[str]) -> list[Any]:
    """The shape of each input of a model that says what it takes."""
    if _is_shape(input_shape) and len(names) == 1:
        return [input_shape]
    shapes = input_shape
    if isinstance(shapes, dict):
        shapes = [shapes[name] for name in names] if set(shapes) == set(names) else None
    if not isinstance(shapes, (list, tuple)) or len(shapes) != len(names) or not all(map(_is_shape, shapes)):
        raise ValueError(
            f"input_shape: expected the shape of one example without the batch for each input {names}, "
            f"got {input_shape!r}; give a list in this order or a dict by name"
        )
    return list(shapes)


def _spec(tensor: Any, shape: Any) -> tf.TensorSpec:
    """What the model is called with in the place of one of its inputs."""
    own = tuple(tensor.shape)[1:]
    found = own if shape is None else tuple(shape)
    fits = len(found) == len(own) and all(size in (None, other) for size, other in zip(own, found, strict=True))
    if not fits:
        raise ValueError(f"input_shape: expected {own} as the shape of the input {tensor.name!r}, got {found}")
    if None in found:
        raise ValueError(
            f"input_shape: expected every dimension of the input {tensor.name!r} to be known, got {found}; give the "
            "shape of one example without the batch, such as input_shape=(224, 224, 3)"
        )
    if tuple(tensor.shape)[:1] not in ((None,), (1,)):
        raise ValueError(
            f"model: expected a model that takes a batch of 1, got a fixed batch of {tensor.shape[0]} for the input "
            f"{tensor.name!r}; build it without batch_size"
        )
    return tf.TensorSpec((1, *found), tensor.dtype)
