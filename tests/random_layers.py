"""Steps of random models: what may be made of maps of an image, or of a sequence, each as users write it.

A step takes a `Draw` and a tensor, channels last, and gives a tensor of the same rank; it leaves maps and channels
alone that are too small for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Step = Callable[["Draw", Any], Any]
IMAGES: dict[str, Step] = {}
SEQUENCES: dict[str, Step] = {}
BOTH = (IMAGES, SEQUENCES)
# Zero at zero or not, smooth or not; `None` is linear. Those that grow fast are left out: their numbers would grow too.
ACTIVATIONS = (*(None, "relu", "tanh", "gelu", "silu", "leaky_relu", "elu") * 2, "sigmoid", "softplus")


class Draw:
    """Random choices."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def pick(self, values: Sequence[Any]) -> Any:
        """One of them."""
        return values[int(self._rng.integers(len(values)))]

    def chance(self, share: float = 0.5) -> bool:
        """Whether it happens."""
        return bool(self._rng.random() < share)

    def width(self) -> int:
        """Of a layer."""
        return self.pick((3, 4, 6, 8, 8, 10))

    def activation(self) -> str | None:
        """Of a layer."""
        return self.pick(ACTIVATIONS)

    def kernel(self) -> dict[str, Any]:
        """Options of layers with a kernel."""
        return {"activation": self.activation(), "use_bias": self.chance(0.7)}


def step(*tables: dict[str, Step]) -> Callable[[Step], Step]:
    """A decorator that adds a step to tables under its name."""

    def add(function: Step) -> Step:
        for table in tables:
            table[function.__name__] = function
        return function

    return add


def channels(x: Any) -> int:
    return int(x.shape[-1])


def kept_size(draw: Draw, x: Any, filters: int, **options: Any) -> Any:
    """A convolution that keeps all sizes but that of the channels."""
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    return kind(filters, draw.pick((1, 3)), padding="same", **options)(x)


@step(*BOTH)
def convolution(draw: Draw, x: Any) -> Any:
    side = min(x.shape[1:-1])
    options = {"padding": draw.pick(("same", "valid")), **draw.kernel()}
    options[draw.pick(("strides", "dilation_rate"))] = 2 if side >= 6 and draw.chance(0.3) else 1
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    if kind is layers.Conv1D and options.get("strides", 1) == 1 and draw.chance(0.3):
        options["padding"] = "causal"
    return kind(draw.width(), draw.pick((1, 2, 3)) if side >= 6 else 1, **options)(x)


@step(*BOTH)
def grouped(draw: Draw, x: Any) -> Any:
    groups = draw.pick([n for n in range(2, channels(x) + 1) if channels(x) % n == 0] or [1])
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    return kind(groups * draw.pick((1, 2, 3)), draw.pick((1, 3)), padding="same", groups=groups, **draw.kernel())(x)


@step(*BOTH)
def depthwise(draw: Draw, x: Any) -> Any:
    kind = layers.DepthwiseConv2D if len(x.shape) == 4 else layers.DepthwiseConv1D
    return kind(draw.pick((1, 3)), padding="same", depth_multiplier=draw.pick((1, 1, 2)), **draw.kernel())(x)


@step(*BOTH)
def separable(draw: Draw, x: Any) -> Any:
    kind = layers.SeparableConv2D if len(x.shape) == 4 else layers.SeparableConv1D
    options = {"depth_multiplier": draw.pick((1, 1, 2)), **draw.kernel()}
    return kind(draw.width(), draw.pick((1, 3)), padding="same", **options)(x)


@step(*BOTH)
def transposed(draw: Draw, x: Any) -> Any:
    kind = layers.Conv2DTranspose if len(x.shape) == 4 else layers.Conv1DTranspose
    strides = 2 if max(x.shape[1:-1]) <= 4 and draw.chance() else 1
    return kind(draw.width(), draw.pick((2, 3)), strides=strides, padding="same", **draw.kernel())(x)


@step(*BOTH)
def dense(draw: Draw, x: Any) -> Any:
    return layers.Dense(draw.width(), **draw.kernel())(x)


@step(*BOTH)
def einsum(draw: Draw, x: Any) -> Any:
    left = "abcd"[: len(x.shape)]
    # Keras exchanges axes where dots stand for two of places.
    dots = len(left) == 3 and draw.chance()
    equation = "...c,ce->...e" if dots else f"{left},{left[-1]}e->{left[:-1]}e"
    width = draw.width()
    bias = draw.pick(("e", None))
    shape = width if dots else (*x.shape[1:-1], width)
    return layers.EinsumDense(equation, output_shape=shape, bias_axes=bias, activation=draw.activation())(x)


@step(*BOTH)
def batch_norm(draw: Draw, x: Any) -> Any:
    x = layers.BatchNormalization(center=draw.chance(0.8), scale=draw.chance(0.8))(x)
    return activated(draw, x)


@step(*BOTH)
def other_norm(draw: Draw, x: Any) -> Any:
    """Over all channels, over groups of them, over each by itself, over maps."""
    groups = draw.pick([-1, *[n for n in range(1, channels(x) + 1) if channels(x) % n == 0]])
    norm = draw.pick(
        [
            lambda: layers.LayerNormalization(center=draw.chance(), scale=draw.chance()),
            lambda: layers.GroupNormalization(groups, center=draw.chance(), scale=draw.chance()),
            layers.UnitNormalization,
            lambda: layers.LayerNormalization(axis=1),
            lambda: layers.BatchNormalization(axis=1),
        ]
    )
    return layers.ReLU()(norm()(x))


@step(*BOTH)
def activated(draw: Draw, x: Any) -> Any:
    """A layer or an operator."""
    return draw.pick(
        [
            lambda: layers.ReLU(max_value=draw.pick((None, 6.0)), negative_slope=draw.pick((0.0, 0.1)))(x),
            lambda: layers.LeakyReLU()(x),
            lambda: layers.ELU()(x),
            lambda: layers.Activation(draw.activation() or "swish")(x),
            lambda: ops.relu(x),
            lambda: ops.sigmoid(x),
            lambda: ops.silu(x),
            lambda: ops.tanh(x),
            lambda: keras.activations.gelu(x),
            lambda: layers.Softmax(axis=draw.pick((1, -1)))(x) * x,
            lambda: layers.PReLU(shared_axes=draw.pick((None, [1], list(range(1, len(x.shape) - 1)))))(x),
        ]
    )()


@step(*BOTH)
def scaled(draw: Draw, x: Any) -> Any:
    """Numbers of the program."""
    return draw.pick(
        [
            lambda: x * 2.0,
            lambda: 0.5 * x + 1.0,
            lambda: 1.0 - x,
            lambda: -x,
            lambda: ops.abs(x),
            lambda: ops.clip(x, -2.0, 2.0),
            lambda: layers.Rescaling(0.5, offset=draw.pick((0.0, 0.5)))(x),
            lambda: x / 2.0,
            lambda: x * np.linspace(0.5, 1.5, channels(x), dtype="float32"),
            lambda: ops.square(ops.tanh(x)),
        ]
    )()


@step(*BOTH)
def noise(draw: Draw, x: Any) -> Any:
    spatial = layers.SpatialDropout2D if len(x.shape) == 4 else layers.SpatialDropout1D
    return draw.pick((layers.Dropout(0.2), layers.GaussianNoise(0.1), spatial(0.1), layers.Identity()))(x)


@step(IMAGES)
def pooled(draw: Draw, x: Any) -> Any:
    if min(x.shape[1:-1]) < 4:
        return x
    kind = draw.pick((layers.MaxPooling2D, layers.AveragePooling2D))
    return kind(2, strides=draw.pick((None, 1)), padding=draw.pick(("same", "valid")))(x)


@step(IMAGES)
def resized(draw: Draw, x: Any) -> Any:
    """Padding, cropping, other sizes."""
    if min(x.shape[1:-1]) < 3:
        return layers.UpSampling2D(2)(x)
    return draw.pick(
        [
            lambda: layers.ZeroPadding2D(draw.pick((1, ((0, 1), (2, 0)))))(x),
            lambda: layers.Cropping2D(((0, 1), (1, 0)))(x),
            lambda: layers.Resizing(4, 5)(x),
            lambda: layers.UpSampling2D((1, 2), interpolation=draw.pick(("nearest", "bilinear")))(x),
            lambda: ops.repeat(x, 2, axis=1),
            lambda: ops.pad(x, [(0, 0), (1, 0), (0, 1), (0, 0)]),
        ]
    )()


@step(IMAGES)
def in_three_dimensions(draw: Draw, x: Any) -> Any:
    """Rows of places as times, or as the first of three axes."""
    if draw.chance():
        options = {"return_sequences": True, "padding": "same", "use_bias": draw.chance()}
        return layers.ConvLSTM1D(draw.pick((3, 4)), draw.pick((1, 3)), **options)(x)
    x = layers.Conv3D(draw.width(), (1, 3, 3), padding="same", **draw.kernel())(ops.expand_dims(x, axis=1))
    return ops.squeeze(layers.BatchNormalization()(x) if draw.chance() else x, axis=1)


@step(IMAGES)
def blocks_to_channels(draw: Draw, x: Any) -> Any:
    """Four places become one of four times the channels."""
    _, rows, columns, width = x.shape
    if rows % 2 or columns % 2 or width > 6:
        return layers.ReLU()(x)
    y = layers.Reshape((rows // 2, 2, columns // 2, 2, width))(x)
    return layers.Reshape((rows // 2, columns // 2, 4 * width))(layers.Permute((1, 3, 2, 4, 5))(y))


@step(SEQUENCES)
def recurrent(draw: Draw, x: Any) -> Any:
    kind = draw.pick((layers.GRU, layers.LSTM, layers.SimpleRNN))
    layer = kind(draw.width(), return_sequences=True, unroll=True, use_bias=draw.chance(0.7))
    if draw.chance(0.3):
        return layers.Bidirectional(layer, merge_mode=draw.pick(("concat", "sum", "mul", "ave")))(x)
    return layer(x)


@step(SEQUENCES)
def attended(draw: Draw, x: Any) -> Any:
    """To itself or to another, with a residual or not."""
    other = layers.Dense(draw.width(), **draw.kernel())(x)
    options = {"value_dim": draw.pick((None, 4)), "use_bias": draw.chance(), "output_shape": draw.pick((None, 6))}
    y = layers.MultiHeadAttention(draw.pick((1, 2, 4)), 3, **options)(x, draw.pick((x, other)))
    return x + y if y.shape[-1] == x.shape[-1] and draw.chance() else y


@step(SEQUENCES)
def pooled_in_time(draw: Draw, x: Any) -> Any:
    if x.shape[1] < 4:
        return layers.UpSampling1D(2)(x)
    return draw.pick(
        (layers.MaxPooling1D(2), layers.AveragePooling1D(2, 1), layers.ZeroPadding1D(1), layers.Cropping1D((0, 1)))
    )(x)
