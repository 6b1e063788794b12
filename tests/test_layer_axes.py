"""Patterns along the inputs of every kind of layer, without being told its axes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.layer_axes import layers_within, output_axes
from keras_prune.masks import prunable
from keras_prune.patterns import Balanced, NByM
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune
from keras_prune.wrappers import wrap

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)


def mobile():
    x = inputs = keras.Input((8, 8, 3))
    for size in (8, 16):
        x = layers.DepthwiseConv2D(4, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(size, 1)(x)
    x = layers.SeparableConv2D(8, 2)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def unet():
    inputs = keras.Input((8, 8, 4))
    down = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    up = layers.Conv2DTranspose(6, 2, strides=2)(down)
    x = layers.Concatenate()([inputs, up])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(x))))


def transformer():
    inputs = keras.Input((5, 8))
    x = layers.Add()([inputs, layers.MultiHeadAttention(2, 4)(inputs, inputs)])
    x = layers.EinsumDense("abc,dc->abd", (None, 12))(layers.LayerNormalization()(x))  # (outputs, inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def rows(variable):
    """(outputs, inputs) of each kind, written down by hand."""
    kernel, shape = variable.numpy(), tuple(variable.shape)
    path = variable.path
    if "depthwise" in path:  # (height, width, inputs, multiplier)
        return kernel.reshape(-1, shape[2] * shape[3]).T
    if "transpose" in path:  # (height, width, outputs, inputs)
        return kernel.transpose(2, 0, 1, 3).reshape(shape[2], -1)
    if any(name in path for name in ("query", "key", "value")):  # (inputs, heads, size)
        return kernel.reshape(shape[0], -1).T
    if "einsum_dense" in path:
        return kernel
    return kernel.reshape(-1, shape[-1]).T


MODELS = pytest.mark.parametrize("make", [mobile, unet, transformer])


@MODELS
def test_two_of_four_inputs(make):
    model = prune(make(), 0.5, pattern=NByM(2, 4))
    for path, variable in prunable(model).items():
        kept = rows(variable) != 0
        full = kept.shape[1] // 4 * 4
        groups = kept[:, :full].reshape(-1, 4).sum(axis=1)
        assert (groups == 2).all(), path


@MODELS
@pytest.mark.parametrize("wrapped", [False, True])
def test_rows_are_balanced_while_training(make, wrapped):
    model = wrap(make(), pattern="balanced") if wrapped else make()
    model.compile("adam", "mse", jit_compile=False)
    x, y = RNG.normal(size=(16, *model.input_shape[1:])), RNG.normal(size=(16, 3))
    callback = PruneCallback(ConstantSparsity(0.5, frequency=1), pattern=Balanced())
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    for path, variable in prunable(model).items():
        kept = (rows(variable) != 0).sum(axis=1)
        assert np.unique(kept).tolist() == [max(1, round(rows(variable).shape[1] / 2))], path


class Opaque(keras.Model):
    """Only its code knows what follows what, so that each kernel's channels are pruned by themselves."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


@MODELS
def test_channels_with_their_biases(make):
    model = Opaque(make())
    for variable in model.trainable_variables:
        if variable.name in ("bias", "gamma", "beta"):
            variable.assign(np.ones(variable.shape))
    prune(model, 0.5, pattern="channel")
    for path, variable in prunable(model).items():
        dead = ~rows(variable).any(axis=1)
        assert dead.sum() == len(dead) - max(1, round(len(dead) / 2)), path
        assert (rows(variable)[~dead] != 0).all(), path
        bias = next((v for v in model.variables if v.path == variable.path.replace("/kernel", "/bias")), None)
        if bias is not None and path.endswith("/kernel"):
            assert np.array_equal(bias.numpy().reshape(-1) == 0, dead), path


def test_axes_that_are_given_are_kept():
    model = prune(unet(), 0.5, pattern=Balanced(output_axes=-1), layers=".*transpose.*")
    (kernel,) = prunable(model, ".*transpose.*").values()
    assert np.unique((kernel.numpy() != 0).sum(axis=(0, 1, 2))).tolist() == [12]


@pytest.mark.parametrize(
    ("equation", "shape", "expected"),
    [
        ("abc,cde->abde", (None, 2, 3), (-2, -1)),
        ("abc,dc->abd", (None, 4), -2),
        ("...x,xy->...y", (4,), -1),
        ("abc,cbd->abd", (3, 4), (-2, -1)),  # each b has its own matrix
        ("abc,bc->abc", (3, 4), -1),  # scales: no sum over inputs at all
        ("abc,bc->a", (), ()),  # one output
    ],
)
def test_of_an_equation(equation, shape, expected):
    layer = layers.EinsumDense(equation, shape)
    layer.build((None, 3, 4))
    assert output_axes(layer).get(id(layer.weights[0]), -1) == expected
    prune(keras.Sequential([keras.Input((3, 4)), layer]), 0.5, pattern="balanced")


def test_layers_at_any_depth_once():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__()
            self.stages = {"a": [layers.Conv1DTranspose(2, 3, name="inner")], "b": ()}
            self.again = self.stages["a"][0]

        def call(self, x):
            return self.again(x)

    own = Own()
    model = keras.Sequential([keras.Input((6, 3)), layers.Bidirectional(layers.LSTM(4, return_sequences=True)), own])
    names = [type(layer).__name__ for layer in layers_within(model)]
    assert sorted(names) == sorted(
        ["Sequential", "Functional", "InputLayer", "Bidirectional", *2 * ["LSTM", "LSTMCell"], "Own", "Conv1DTranspose"]
    )
    assert list(output_axes(model).values()) == [-2]
