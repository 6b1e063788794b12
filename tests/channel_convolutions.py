"""Models of convolutions: each kind of kernel, and what stands between two of them."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import pytest
from channel_models import IMAGE, Case, classify, conv, image_model, register  # type: ignore[import-not-found]
from keras import layers, ops

CASES: dict[str, Case] = {}
case = register(CASES)


@case(units=18)
def plain() -> Any:
    stack = [conv(10, activation="relu"), layers.BatchNormalization(), conv(8, strides=2), layers.ReLU()]
    return keras.Sequential([keras.Input(IMAGE), *stack, layers.GlobalMaxPooling2D(), layers.Dense(5)])


@case(units=26)
def flatten_to_dense() -> Any:
    """One channel is many inputs of the Dense layer."""
    convolutions = [conv(8, activation="relu"), layers.MaxPooling2D(), conv(6, activation="relu")]
    dense = [layers.Flatten(), layers.Dense(12, activation="relu"), layers.Dense(5)]
    return keras.Sequential([keras.Input(IMAGE), *convolutions, *dense])


@case(units=14)
def reshaped_to_dense() -> Any:
    """Flattened by Reshape, with the size written out."""
    stack = [conv(8, strides=4, activation="relu"), layers.Reshape((72,)), layers.Dense(6, activation="relu")]
    return keras.Sequential([keras.Input(IMAGE), *stack, layers.Dense(5)])


@case(units=18)
def depthwise() -> Any:
    def body(x: Any) -> Any:
        x = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(conv(8)(x)))
        return conv(10, 1, activation="relu")(layers.ReLU(6.0)(x))

    return image_model(body)


@case(units=14)
def depthwise_multiplier() -> Any:
    """Two outputs of each channel."""

    def body(x: Any) -> Any:
        x = layers.DepthwiseConv2D(3, depth_multiplier=2)(conv(6, activation="relu")(x))
        return conv(8, 1, activation="relu")(layers.ReLU()(layers.BatchNormalization()(x)))

    return image_model(body)


@case(narrower=("before", "grouped", "after"))
def grouped() -> Any:
    """Three groups of four channels; as many must go from each."""

    def body(x: Any) -> Any:
        x = conv(12, activation="relu", name="before")(x)
        x = conv(12, groups=3, activation="relu", name="grouped")(x)
        return conv(8, activation="relu", name="after")(x)

    return image_model(body)


@case(narrower=("before", "grouped"))
def grouped_multiplier() -> Any:
    """ResNeXt's form: groups of three inputs and six outputs, with batch normalization, inside a residual."""

    def body(x: Any) -> Any:
        trunk = conv(8, name="trunk")(x)
        x = layers.ReLU()(layers.BatchNormalization()(conv(12, 1, name="before")(trunk)))
        x = layers.ReLU()(layers.BatchNormalization()(conv(24, groups=4, name="grouped")(x)))
        return layers.ReLU()(trunk + conv(8, 1)(x))

    return image_model(body)


@case(units=6 + 10 + 8)
def separable() -> Any:
    def body(x: Any) -> Any:
        x = layers.SeparableConv2D(10, 3, padding="same", activation="relu")(conv(6, activation="relu")(x))
        return layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")(x)

    return image_model(body)


@case(units=9 + 9 + 8)
def separable_text() -> Any:
    stack = [layers.Conv1D(9, 3, activation="relu"), layers.SeparableConv1D(9, 3, activation="relu")]
    stack += [layers.DepthwiseConv1D(3), layers.Conv1D(8, 1, activation="relu"), layers.GlobalMaxPooling1D()]
    return keras.Sequential([keras.Input((16, 4)), *stack, layers.Dense(5)])


@case(units=8 + 4 + 6)
def squeeze_and_excite() -> Any:
    """The gate's shape is written out: (1, 1, 8)."""

    def body(x: Any) -> Any:
        x = layers.BatchNormalization()(conv(8)(x))
        gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
        gate = conv(8, 1, activation="sigmoid")(conv(4, 1, activation="relu")(gate))
        return conv(6, activation="relu")(layers.Multiply()([x, gate]))

    return image_model(body)


@case(units=8 + 4 + 6)
def squeeze_and_excite_dense() -> Any:
    """The gate is made by Dense layers, and the map multiplied by the operator."""

    def body(x: Any) -> Any:
        x = conv(8, activation="swish")(x)
        gate = layers.Dense(4, activation="swish")(ops.mean(x, axis=(1, 2)))
        gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="hard_sigmoid")(gate))
        return conv(6, activation="relu")(x * gate)

    return image_model(body)


@case(units=16 + 6)
def decoder() -> Any:
    """As of a generator: Dense -> Reshape -> transposed convolutions; one channel is sixteen outputs of Dense."""
    x = inputs = keras.Input((6,), name="code")
    x = layers.Reshape((4, 4, 16))(layers.ReLU()(layers.BatchNormalization()(layers.Dense(256, use_bias=False)(x))))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Conv2DTranspose(3, 3, strides=2, padding="same", name="pixels")(x))


@case(units=10 + 8)
def transposed_text() -> Any:
    stack = [layers.Conv1D(10, 3, padding="causal", dilation_rate=2, activation="relu")]
    stack += [layers.Conv1DTranspose(8, 3, strides=2, activation="relu"), layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input((12, 4)), *stack, layers.Dense(5)])


@case(units=6 + 8 + 8 + 6)
def u_net() -> Any:
    inputs = keras.Input(IMAGE)
    high = conv(6, activation="relu")(inputs)
    low = conv(8, activation="relu")(layers.MaxPooling2D()(high))
    up = layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(low)
    x = conv(6, activation="relu")(layers.Concatenate()([high, up]))
    return keras.Model(inputs, conv(2, 1, name="pixels")(x))


@case(units=10 + 8)
def shapes_change() -> Any:
    """Padding, cropping, upsampling, pooling and noise leave the channels where they are."""
    stack = [conv(10, activation="relu"), layers.ZeroPadding2D(((1, 0), (2, 1))), layers.Cropping2D(1)]
    stack += [
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.AveragePooling2D(2),
        layers.SpatialDropout2D(0.2),
    ]
    stack += [layers.GaussianNoise(0.1), conv(8), layers.Activation("gelu"), layers.GaussianDropout(0.1)]
    return keras.Sequential(
        [keras.Input(IMAGE), *stack, layers.Dropout(0.3), layers.GlobalAveragePooling2D(), layers.Dense(5)]
    )


@case(units=6 + 8)
def volumes() -> Any:
    stack = [layers.Conv3D(6, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling3D()]
    stack += [layers.Conv3D(8, (1, 3, 3), activation="relu"), layers.GlobalAveragePooling3D(), layers.Dense(5)]
    return keras.Sequential([keras.Input((4, 8, 8, 2)), *stack])


@case(units=6 + 5)
def volumes_transposed() -> Any:
    stack = [layers.Conv3D(6, 3, strides=2, padding="same", activation="relu")]
    stack += [layers.Conv3DTranspose(5, 2, strides=2, activation="relu"), layers.ZeroPadding3D(1)]
    return keras.Sequential([keras.Input((4, 8, 8, 2)), *stack, layers.UpSampling3D((1, 2, 2)), layers.Conv3D(2, 3)])


@case(units=8 + 6)
def parametric_activations() -> Any:
    """Slopes by channel, and by pixel and channel."""

    def body(x: Any) -> Any:
        x = layers.PReLU(shared_axes=[1, 2])(conv(8)(x))
        return layers.PReLU()(conv(6)(x))

    return image_model(body)


@keras.saving.register_keras_serializable("channel_models")
class Scale(layers.Layer):
    """One factor for each channel, as LayerScale."""

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma", initializer="ones")

    def call(self, x: Any) -> Any:
        return x * self.gamma


@case(units=6, whole=("trunk",), refused=("scale",))
def own_layer() -> Any:
    """What a layer with code of its own does with channels cannot be known: they stay."""

    def body(x: Any) -> Any:
        return Scale(name="scale")(conv(8, name="trunk")(conv(6, activation="relu")(x)))

    return image_model(body)


@case(units=14, unseen=dict.fromkeys(("moving_stddev", "renorm"), "only training reads it"))
def batch_renormalization() -> Any:
    """With and without gamma; it remembers more of each channel."""
    if "renorm" not in inspect.signature(layers.BatchNormalization).parameters:
        pytest.skip("older Keras has no renormalization")

    def body(x: Any) -> Any:
        x = layers.ReLU()(layers.BatchNormalization(renorm=True)(conv(8)(x)))
        return layers.ReLU()(layers.BatchNormalization(renorm=True, scale=False)(conv(6)(x)))

    return image_model(body)


@case(units=6, whole=("trunk",))
def layer_normalization() -> Any:
    """Zero channels change the mean and variance of the others."""

    def body(x: Any) -> Any:
        return layers.LayerNormalization()(conv(8, name="trunk")(conv(6, activation="relu")(x)))

    return image_model(body)


@case(units=6, whole=("trunk",))
def group_normalization() -> Any:
    def body(x: Any) -> Any:
        return layers.GroupNormalization(2)(conv(8, name="trunk")(conv(6, activation="relu")(x)))

    return image_model(body)


@case(whole=("trunk",))
def other_normalizations() -> Any:
    """A mean of squares changes with the number of channels; a sum of squares does not."""
    if not hasattr(layers, "RMSNormalization"):
        pytest.skip("older Keras has no RMSNormalization")

    def body(x: Any) -> Any:
        x = layers.RMSNormalization()(conv(8, name="trunk")(conv(6, activation="relu")(x)))
        return layers.UnitNormalization()(conv(7)(x))

    return image_model(body)


@case(units=16, whole=("trunk",))
def conv_next_block() -> Any:
    """Depthwise, LayerNormalization over the trunk, a wide inner layer, LayerScale, residual."""

    def body(x: Any) -> Any:
        trunk = conv(6, name="trunk")(x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.DepthwiseConv2D(5, padding="same")(trunk))
        x = layers.Dense(6)(layers.Dense(16, activation="gelu")(x))
        return trunk + x

    return image_model(body)


@case(units=8 + 10 + 8, narrower=("project",))
def inverted_residual() -> Any:
    """MobileNet v2: the narrow trunk is joined, the wide inner layer goes with its depthwise kernel."""

    def body(x: Any) -> Any:
        trunk = layers.BatchNormalization()(conv(8, use_bias=False)(x))
        x = layers.ReLU(6.0)(layers.BatchNormalization()(conv(10, 1, use_bias=False)(trunk)))
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(conv(8, 1, name="project")(layers.ReLU(6.0)(layers.BatchNormalization()(x))))
        return conv(8, 1, activation="relu")(layers.Add()([trunk, x]))

    return image_model(body)


@case(units=6 + 8 + 8 + 8)
def fire() -> Any:
    """SqueezeNet's module."""

    def body(x: Any) -> Any:
        squeezed = conv(6, 1, activation="relu")(x)
        joined = layers.Concatenate()([conv(8, 1, activation="relu")(squeezed), conv(8, activation="relu")(squeezed)])
        return conv(8, 1, activation="relu")(layers.Dropout(0.5)(joined))

    return image_model(body)


@case(units=8 + 5 + 4 + 6 + 3 + 6)
def inception() -> Any:
    def body(x: Any) -> Any:
        x = conv(8, strides=2, activation="relu")(x)
        branches = [conv(5, 1, activation="relu")(x), conv(6, activation="relu")(conv(4, 1, activation="relu")(x))]
        branches += [conv(3, 1, activation="relu")(layers.AveragePooling2D(3, strides=1, padding="same")(x))]
        return conv(6, activation="relu")(layers.BatchNormalization()(layers.Concatenate()(branches)))

    return image_model(body)


@case(units=6 + 4 + 4 + 4)
def dense_block() -> Any:
    """DenseNet: each layer reads all those before it, through a batch normalization of its own."""

    def body(x: Any) -> Any:
        x = conv(6)(x)
        for _ in range(3):
            new = conv(4)(layers.ReLU()(layers.BatchNormalization()(x)))
            x = layers.Concatenate()([x, new])
        return layers.ReLU()(layers.BatchNormalization()(x))

    return image_model(body)


@case(units=8)
def batch_normalization_of_inputs() -> Any:
    """The input's channels stay, and so does the normalization without scale and centre."""
    stack = [layers.Rescaling(0.5), layers.BatchNormalization(), conv(8)]
    stack += [layers.BatchNormalization(scale=False, center=False), layers.ReLU(), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input(IMAGE), *stack, layers.Dense(5)])


@case(folded=True)
def sigmoid_convolution() -> Any:
    """f(0) is a half: what a removed channel still gives, at the border less than inside, is folded or kept."""
    inputs = keras.Input(IMAGE)
    return keras.Model(inputs, classify(conv(6, activation="relu")(conv(8, activation="sigmoid")(inputs))))
