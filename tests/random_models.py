"""Random functional models: a trunk of random steps with branches, one or two inputs, one to three outputs."""

from __future__ import annotations

import math
from typing import Any

import keras
import random_joins  # type: ignore[import-not-found]  # noqa: F401  adds its steps
from keras import layers, ops
from random_layers import IMAGES, SEQUENCES, Draw, channels  # type: ignore[import-not-found]

# Where a tensor has grown beyond this, a layer makes it smaller: a model runs in milliseconds.
LARGEST_SIDE, LARGEST_WIDTH = 8, 16


def random_model(seed: int) -> Any:
    """A model that the seed decides on, with Keras's own initial weights.

    Args:
        seed: any whole number; the same makes the same model.
    """
    draw = Draw(seed)
    keras.utils.set_random_seed(seed)
    if draw.chance(0.3):
        x = inputs = keras.Input((draw.pick((5, 6, 8)), draw.pick((3, 4))), name="sequence")
        table = SEQUENCES
    else:
        x = inputs = keras.Input((draw.pick((6, 8)), draw.pick((6, 7)), draw.pick((2, 3))), name="image")
        table = IMAGES
    given = {inputs.name: inputs}
    x = table["convolution"](draw, x)
    if draw.chance(0.25):
        given["second"] = keras.Input((draw.width(),), name="second")
        x = x + layers.Reshape((*[1] * (len(x.shape) - 2), channels(x)))(layers.Dense(channels(x))(given["second"]))
    results = []
    for _ in range(draw.pick((2, 3, 4, 5))):
        x = bounded(draw, table[draw.pick(list(table))](draw, x))
        if draw.chance(0.1):
            results.append(head(draw, x))
    results.append(head(draw, x))
    return keras.Model(_structure(draw, given), _structure(draw, {f"head{i}": y for i, y in enumerate(results)}))


def _structure(draw: Draw, tensors: dict[str, Any]) -> Any:
    """One tensor, a list or a dictionary."""
    values = list(tensors.values())
    return values[0] if len(values) == 1 else draw.pick((values, tensors))


def bounded(draw: Draw, x: Any) -> Any:
    """Within the largest sizes."""
    sides = x.shape[1:-1]
    if max(sides) > LARGEST_SIDE:
        strides = [2 if side > LARGEST_SIDE else 1 for side in sides]
        x = layers.MaxPooling2D(strides)(x) if len(sides) == 2 else layers.MaxPooling1D(strides)(x)
    return layers.Dense(draw.width(), activation="relu")(x) if channels(x) > LARGEST_WIDTH else x


def head(draw: Draw, x: Any) -> Any:
    """Numbers of an image or sequence."""
    features = draw.pick(_FLAT if len(x.shape) == 3 else [*_FLAT, _rows, _rows])(draw, x)
    return layers.Dense(draw.pick((3, 5)))(features)


def _rows(draw: Draw, x: Any) -> Any:
    """The places of an image, one after the other, as a sequence."""
    shape = (int(x.shape[1] * x.shape[2]), channels(x))
    if draw.chance(0.3):
        return draw.pick(_FLAT)(draw, layers.Reshape((x.shape[1], int(x.shape[2] * channels(x))))(x))
    x = layers.Reshape(shape)(x) if draw.chance() else ops.reshape(x, (-1, *shape))
    return draw.pick(_FLAT)(draw, SEQUENCES["attended"](draw, x) if draw.chance() else x)


def _means(draw: Draw, x: Any) -> Any:
    """Over all places, by a layer or an operator."""
    axes = tuple(range(1, len(x.shape) - 1))
    kinds = {1: (layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D)}
    kinds[2] = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    return draw.pick(
        [
            lambda: draw.pick(kinds[len(axes)])()(x),
            lambda: layers.Flatten()(draw.pick(kinds[len(axes)])(keepdims=True)(x)),
            lambda: ops.mean(x, axis=axes),
            lambda: ops.max(x, axis=axes),
            lambda: ops.sum(x, axis=axes) / 8.0,
        ]
    )()


def _flat(draw: Draw, x: Any) -> Any:
    """All numbers, with a layer behind or not."""
    x = layers.Flatten()(x) if draw.chance() else ops.reshape(x, (-1, math.prod(x.shape[1:])))
    return layers.Dense(draw.width(), **draw.kernel())(x) if draw.chance() else x


def _last(draw: Draw, x: Any) -> Any:
    """The last state of a recurrent layer over the first axis of places."""
    x = layers.TimeDistributed(layers.Flatten())(x) if len(x.shape) == 4 else x
    kind = draw.pick((layers.GRU, layers.LSTM))
    return kind(draw.width(), unroll=True, go_backwards=draw.chance())(x)


_FLAT = [_means, _means, _flat, _flat, _last]
