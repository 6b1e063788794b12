"""Steps of random models in which tensors meet, part and move, and layers hold or share others."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from random_layers import (  # type: ignore[import-not-found]
    BOTH,
    Draw,
    activated,
    channels,
    kept_size,
    step,
)


@step(*BOTH)
def summed(draw: Draw, x: Any) -> Any:
    """A residual, by a layer or an operator."""
    other = kept_size(draw, x, channels(x), **draw.kernel())
    if draw.chance():
        other = kept_size(draw, activated(draw, other), channels(x))
    joins = (layers.Add(), layers.Subtract(), layers.Average(), layers.Maximum(), layers.Minimum(), layers.Multiply())
    by_layer = draw.pick(joins)
    operator = draw.pick((ops.add, ops.subtract, ops.maximum, ops.minimum, ops.multiply))
    return draw.pick([lambda: x + other, lambda: by_layer([x, other]), lambda: operator(other, x)])()


@step(*BOTH)
def concatenated(draw: Draw, x: Any) -> Any:
    """On the channels' axis or another, also with itself."""
    same = kept_size(draw, x, channels(x), **draw.kernel())
    other = kept_size(draw, x, draw.width(), **draw.kernel())
    return draw.pick(
        [
            lambda: layers.Concatenate()([x, other]),
            lambda: ops.concatenate([other, x], axis=-1),
            lambda: layers.Concatenate()([x, x]),
            lambda: layers.Concatenate(axis=1)([x, same]),
            lambda: ops.mean(ops.stack([x, same], axis=draw.pick((1, 2))), axis=draw.pick((1, 2))),
            lambda: ops.pad(x, [*[(0, 0)] * (len(x.shape) - 1), draw.pick([(0, 2), (1, 1)])]),
        ]
    )()


@step(*BOTH)
def gated(draw: Draw, x: Any) -> Any:
    """Squeeze and excite with a fixed shape, a gate for each place, or one for each channel of each place."""
    rank, width = len(x.shape), channels(x)
    pool = layers.GlobalAveragePooling2D if rank == 4 else layers.GlobalAveragePooling1D
    if draw.chance(0.6):
        gate = layers.Dense(draw.width(), activation="relu")(pool()(x))
        gate = layers.Dense(width, activation=draw.pick(("sigmoid", "hard_sigmoid", "tanh")))(gate)
        gate = layers.Reshape((*[1] * (rank - 2), width))(gate)
    elif draw.chance():
        gate = kept_size(draw, pool(keepdims=True)(x), width, activation="sigmoid")
    else:
        gate = kept_size(draw, x, draw.pick((1, width)), activation="sigmoid")
    return layers.Multiply()([x, gate]) if draw.chance() else x * gate


@step(*BOTH)
def sliced(draw: Draw, x: Any) -> Any:
    """Parts, of places or of channels."""
    if channels(x) < 4 or x.shape[1] < 3:
        return kept_size(draw, x, 6)
    half = channels(x) // 2
    first, second = ops.split(x, [half], axis=-1)
    return draw.pick(
        [
            lambda: layers.Concatenate()([second, activated(draw, first)]),
            lambda: layers.Concatenate()([kept_size(draw, first, 4), second]),
            lambda: x[..., :half] + x[..., -half:],
            lambda: x[..., 1:],
            lambda: x[:, 1:],
            lambda: x[:, ::2],
            lambda: x[:, :, ::-1] if len(x.shape) == 4 else x[:, ::-1],
            lambda: x[..., ::2],
            lambda: layers.Add()(ops.split(x, 2, axis=-1)) if channels(x) % 2 == 0 else second,
            lambda: ops.flip(x, axis=1),
        ]
    )()


@step(*BOTH)
def shuffled(draw: Draw, x: Any) -> Any:
    """Channels among groups, by reshaping and transposing."""
    *_, width = x.shape
    groups = draw.pick([n for n in range(1, width + 1) if width % n == 0])
    places = tuple(x.shape[1:-1])
    rank = len(x.shape)
    order = [*range(rank - 1), rank, rank - 1]
    if draw.chance():
        y = layers.Permute(order[1:])(layers.Reshape((*places, groups, width // groups))(x))
        return layers.Reshape((*places, draw.pick((width, -1))))(y)
    y = ops.transpose(ops.reshape(x, (-1, *places, groups, width // groups)), order)
    return ops.reshape(y, (-1, *places, width))


@step(*BOTH)
def shared(draw: Draw, x: Any) -> Any:
    """One layer called twice, one behind the other or beside it."""
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    layer = kind(channels(x), draw.pick((1, 3)), padding="same", **draw.kernel())
    other = kept_size(draw, x, channels(x), **draw.kernel())
    if draw.chance():
        return layer(layer(x))
    return draw.pick((layers.Add(), layers.Concatenate()))([layer(x), layer(other)])


@step(*BOTH)
def nested(draw: Draw, x: Any) -> Any:
    """A model in the model, functional or Sequential, called once or twice."""
    inputs = keras.Input(x.shape[1:])
    body = kept_size(draw, activated(draw, kept_size(draw, inputs, draw.width(), **draw.kernel())), channels(x))
    if draw.chance():
        body = body + inputs
    inner = keras.Model(inputs, body)
    if draw.chance(0.3):
        inner = keras.Sequential([layers.Dense(draw.width(), **draw.kernel()), layers.Dense(channels(x))])
    return inner(inner(x)) if draw.chance(0.3) else inner(x)


@step(*BOTH)
def at_each_step(draw: Draw, x: Any) -> Any:
    """The first axis of places as time."""
    if len(x.shape) == 3:
        return layers.TimeDistributed(layers.Dense(draw.width(), **draw.kernel()))(x)
    inner = draw.pick(
        [
            lambda: layers.Conv1D(draw.width(), 3, padding="same", **draw.kernel()),
            lambda: layers.Dense(draw.width(), **draw.kernel()),
            layers.BatchNormalization,
            lambda: keras.Sequential([layers.Conv1D(4, 1, **draw.kernel()), layers.Dense(draw.width())]),
        ]
    )()
    return layers.TimeDistributed(inner)(x)


@step(*BOTH)
def turned(draw: Draw, x: Any) -> Any:
    """Channels where places were, worked on there, and back again."""
    rank = len(x.shape)
    order = [rank - 1, *range(1, rank - 1)]
    y = layers.Permute(order)(x) if draw.chance() else ops.transpose(x, [0, *order])
    y = draw.pick((layers.Dense(int(x.shape[-2])), layers.ReLU(), layers.BatchNormalization(), layers.Identity()))(y)
    return layers.Permute([*range(2, rank), 1])(y)
