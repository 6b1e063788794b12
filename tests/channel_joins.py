"""Models in which maps meet and part: sums, products, concatenations, splits, shared layers, inputs and outputs."""

from __future__ import annotations

from typing import Any

import keras
from channel_models import IMAGE, SIDE, Case, classify, conv, image_model, register  # type: ignore[import-not-found]
from keras import layers, ops

CASES: dict[str, Case] = {}
case = register(CASES)


def normalized(x: Any, activation: str = "relu") -> Any:
    return layers.Activation(activation)(layers.BatchNormalization()(x))


@case(units=8 + 6)
def residual() -> Any:
    """Two blocks on one trunk, whose inner layers are free."""

    def body(x: Any) -> Any:
        x = normalized(conv(8)(x))
        inner = normalized(conv(6)(x))
        return layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(conv(8)(inner))]))

    return image_model(body)


@case(units=8 + 6 + 10)
def residual_operator() -> Any:
    """``a + b``, with a projection, three times."""

    def body(x: Any) -> Any:
        x = normalized(conv(8)(x))
        x = x + conv(8)(normalized(conv(6)(x)))
        x = conv(10, 1, strides=2)(x) + conv(10, strides=2)(x)
        return ops.relu(x + normalized(conv(10)(x)))

    return image_model(body)


@case(units=8 + 6)
def other_sums() -> Any:
    """Subtract, Average, Maximum, Minimum of equal shapes: all zero where both are."""

    def body(x: Any) -> Any:
        a, b = conv(8)(x), conv(8, 1)(x)
        joined = [
            layers.Subtract()([a, b]),
            layers.Average()([a, b]),
            layers.Maximum()([a, b]),
            layers.Minimum()([a, b]),
        ]
        return conv(6, activation="relu")(layers.Add()(joined))

    return image_model(body)


@case(units=8)
def sum_over_positions() -> Any:
    """(1, 1, 8) + (12, 12, 8)."""

    def body(x: Any) -> Any:
        whole = conv(8, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        return ops.relu(conv(8)(x) + whole)

    return image_model(body)


@case(units=6, whole=("wide",))
def sum_over_channels() -> Any:
    """(12, 12, 8) + (12, 12, 1): one channel reaches all of them, so none is zero."""

    def body(x: Any) -> Any:
        x = conv(6, activation="relu")(x)
        return ops.relu(conv(8, name="wide")(x) + conv(1, name="one")(x))

    return image_model(body)


@case(units=8 + 6)
def sum_of_a_vector() -> Any:
    """(12, 12, 8) + (8,), where the vector is made for each example."""
    image, code = keras.Input(IMAGE, name="image"), keras.Input((4,), name="code")
    shift = layers.Reshape((1, 1, 8))(layers.Dense(8)(code))
    x = ops.relu(conv(8)(image) * layers.Reshape((1, 1, 8))(layers.Dense(8)(code)) + shift)
    return keras.Model([image, code], classify(conv(6, activation="relu")(x)))


@case(units=8 + 6)
def spatial_attention() -> Any:
    """A map of one channel multiplies all: zeros stay zeros."""

    def body(x: Any) -> Any:
        x = conv(8, activation="relu")(x)
        return conv(6, activation="relu")(x * conv(1, activation="sigmoid")(x))

    return image_model(body)


@case(units=8 + 6)
def twice_the_same() -> Any:
    """``concatenate([x, x])``: one channel, two inputs of the layer behind."""

    def body(x: Any) -> Any:
        x = conv(8, activation="relu")(x)
        return conv(6, activation="relu")(layers.Concatenate()([x, x]))

    return image_model(body)


@case(units=8 + 6)
def joined_twice_and_added() -> Any:
    """The channels of ``[a, a] + [b, c]`` go together: one of a is two of the sum."""

    def body(x: Any) -> Any:
        a, b, c = (conv(8, name=name)(x) for name in "abc")
        return conv(6, activation="relu")(layers.Concatenate()([a, a]) + layers.Concatenate()([b, c]))

    return image_model(body)


@case(units=8 + 6)
def joined_along_the_image() -> Any:
    """Concatenated along the height: the same channels."""

    def body(x: Any) -> Any:
        x = layers.Concatenate(axis=1)([conv(8, activation="relu")(x), conv(8, 1, activation="relu")(x)])
        return conv(6, activation="relu")(x)

    return image_model(body)


@case(narrower=("stem", "inner", "outer"))
def shuffle() -> Any:
    """ShuffleNet v2: half passes, half is computed, and the halves are interleaved."""

    def body(x: Any) -> Any:
        x = conv(8, activation="relu", name="stem")(x)
        left, right = ops.split(x, 2, axis=-1)
        right = layers.DepthwiseConv2D(3, padding="same")(conv(4, 1, activation="relu", name="inner")(right))
        right = conv(4, 1, activation="relu", name="outer")(right)
        x = ops.reshape(layers.Concatenate()([left, right]), (-1, SIDE, SIDE, 2, 4))
        x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, SIDE, SIDE, 8))
        return conv(6, activation="relu")(x)

    return image_model(body)


@case(units=8 + 6)
def slices() -> Any:
    """Parts of a map go different ways."""

    def body(x: Any) -> Any:
        x = conv(8, activation="relu")(x)
        a, b = layers.MaxPooling2D()(x[..., :3]), layers.AveragePooling2D(2)(x[..., 3:])
        return conv(6, activation="relu")(layers.Concatenate()([b, a]))

    return image_model(body)


@case(units=8 + 6)
def gated_linear_unit() -> Any:
    """The first half times the sigmoid of the second: channel i goes with channel i + 8."""

    def body(x: Any) -> Any:
        value, gate = ops.split(conv(16)(x), 2, axis=-1)
        return conv(6, activation="relu")(value * ops.sigmoid(gate))

    return image_model(body)


@case(units=12 + 6 + 7)
def padded_shortcut() -> Any:
    """The trunk of eight goes on in one of twelve, padded with two zero channels on either side."""

    def body(x: Any) -> Any:
        x = normalized(conv(8)(x))
        shortcut = ops.pad(layers.AveragePooling2D(2)(x), ((0, 0), (0, 0), (0, 0), (2, 2)))
        inner = normalized(conv(6, strides=2)(x))
        return conv(7, activation="relu")(layers.ReLU()(layers.Add()([conv(12)(inner), shortcut])))

    return image_model(body)


@case(units=8 + 6)
def shared_layer() -> Any:
    """One convolution called on two inputs."""
    a, b = keras.Input(IMAGE, name="a"), keras.Input(IMAGE, name="b")
    shared, after = conv(8, activation="relu"), conv(6, activation="relu")
    both = layers.Subtract()([after(shared(a)), after(shared(b))])
    return keras.Model({"a": a, "b": b}, classify(both))


@case(units=8 + 8)
def shared_in_a_row() -> Any:
    """A convolution called on its own output: its inputs are its outputs."""

    def body(x: Any) -> Any:
        again = conv(8, activation="relu")
        return conv(8, activation="relu")(again(again(conv(8, activation="relu")(x))))

    return image_model(body)


@case(units=8 + 7)
def shared_between_widths() -> Any:
    """A shared convolution reads two layers: their channels go together."""

    def body(x: Any) -> Any:
        shared = conv(7, activation="relu")
        return layers.Concatenate()([shared(conv(8)(x)), shared(conv(8, 1)(x))])

    return image_model(body)


@case(units=8 + 6 + 5, whole=("mask", "score"))
def several_outputs() -> Any:
    """A dictionary of inputs, a list in a dictionary of outputs."""
    inputs = {"image": keras.Input(IMAGE, name="image"), "code": keras.Input((4,), name="code")}
    x = conv(8, activation="relu")(inputs["image"])
    code = layers.Dense(5, activation="relu")(inputs["code"])
    deep = conv(6, activation="relu")(x)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(deep), code])
    outputs = {"mask": conv(2, 1, name="mask")(x), "scores": [layers.Dense(3, name="score")(joined), classify(deep)]}
    return keras.Model(inputs, outputs)


@case(units=6, whole=("hidden",))
def hidden_is_an_output() -> Any:
    inputs = keras.Input(IMAGE)
    hidden = conv(8, activation="relu", name="hidden")(conv(6, activation="relu")(inputs))
    return keras.Model(inputs, [classify(hidden), hidden])


@case(units=6, whole=("hidden",))
def hidden_in_an_output() -> Any:
    """The output is a concatenation with a hidden layer's."""
    inputs = keras.Input(IMAGE)
    hidden = conv(8, activation="relu", name="hidden")(conv(6, activation="relu")(inputs))
    return keras.Model(inputs, layers.Concatenate()([classify(hidden), layers.GlobalMaxPooling2D()(hidden)]))


@case(units=6 + 6 + 7)
def nested() -> Any:
    """A Sequential and a functional model within a model."""
    block = keras.Sequential([keras.Input((SIDE, SIDE, 6)), conv(6, activation="relu"), layers.BatchNormalization()])
    part = keras.Input((SIDE, SIDE, 6))
    residual_block = keras.Model(part, layers.ReLU()(part + block(part)), name="residual_block")

    def body(x: Any) -> Any:
        x = conv(6, activation="relu", name="stem")(x)
        return conv(7, activation="relu")(conv(6, activation="relu")(residual_block(x)))

    return image_model(body)


@case(units=8 + 6)
def nested_twice_called() -> Any:
    """One encoder for two images, with two outputs."""
    part = keras.Input(IMAGE)
    first = conv(8, activation="relu")(part)
    encoder = keras.Model(part, [first, conv(6, activation="relu")(first)], name="encoder")
    a, b = keras.Input(IMAGE, name="a"), keras.Input(IMAGE, name="b")
    (a1, a2), (b1, b2) = encoder(a), encoder(b)
    return keras.Model([a, b], classify(layers.Concatenate()([a1 - b1, a2 * b2])))


@case(units=10 + 8 + 6)
def nested_in_nested() -> Any:
    inner = keras.Sequential([keras.Input((10,)), layers.Dense(8, activation="relu")], name="inner")
    middle = keras.Sequential([keras.Input((10,)), inner, layers.Dense(6, activation="relu")], name="middle")
    return keras.Sequential([keras.Input((4,)), layers.Dense(10, activation="relu"), middle, layers.Dense(5)])


@case(units=6, whole=("averaged", "largest", "shares"))
def across_channels() -> Any:
    """A mean, a maximum and a softmax over channels change with their number."""
    inputs = keras.Input(IMAGE)
    x = conv(6, activation="relu")(inputs)
    mean = ops.mean(conv(8, name="averaged")(x), axis=-1, keepdims=True)
    maximum = ops.max(conv(8, name="largest")(x), axis=-1, keepdims=True)
    softmax = layers.Softmax()(conv(8, name="shares")(x))
    return keras.Model(inputs, classify(layers.Concatenate()([mean, maximum, softmax])))


@case()
def channel_statistics_gate() -> Any:
    """CBAM: the mean and maximum over channels make a map that multiplies them."""

    def body(x: Any) -> Any:
        x = conv(8, activation="relu")(x)
        pair = [ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)]
        return conv(6, activation="relu")(x * conv(1, activation="sigmoid")(layers.Concatenate()(pair)))

    return image_model(body)


@case(units=6 + 7)
def permuted() -> Any:
    """Channels stand first for a while, and are flattened there: a channel is then one run of inputs."""
    stack = [conv(6, strides=3, activation="relu"), layers.Permute((3, 1, 2)), layers.Flatten()]
    return keras.Sequential([keras.Input(IMAGE), *stack, layers.Dense(7, activation="relu"), layers.Dense(5)])


@case(units=8 + 7)
def repeated() -> Any:
    """RepeatVector, and a Dense layer on what has three dimensions."""
    stack = [layers.Dense(8, activation="relu"), layers.RepeatVector(3), layers.Dense(7, activation="relu")]
    return keras.Sequential([keras.Input((4,)), *stack, layers.GlobalAveragePooling1D(), layers.Dense(5)])


@case(units=16 + 8 + 16)
def perceptron() -> Any:
    stack = [layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.Dense(8, activation="tanh")]
    stack += [layers.AlphaDropout(0.1), layers.ActivityRegularization(l2=1e-3), layers.Dense(16, activation="selu")]
    return keras.Sequential([keras.Input((10,)), *stack, layers.Dense(5)])


@case(folded=True)
def sigmoid_perceptron() -> Any:
    """f(0) is not 0: the constant goes into the next bias, or the layer stays."""
    stack = [layers.Dense(10, activation="sigmoid"), layers.Dense(8, activation="softplus")]
    return keras.Sequential([keras.Input((6,)), *stack, layers.Dense(5)])


@case()
def dot_product() -> Any:
    """Two codes are compared: as a sum over units, to which zeros add nothing."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    similar = layers.Dot(axes=1)([layers.Dense(7)(a), layers.Dense(7)(b)])
    inner = layers.Dense(6, activation="relu")(layers.Concatenate()([a, b, similar]))
    return keras.Model([a, b], layers.Dense(5)(inner))
