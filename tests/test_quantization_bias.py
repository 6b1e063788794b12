"""Bias correction: the mean of each output comes back."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_prune import Codebook
from keras_prune_export import bias_correction

layers = keras.layers


def filled(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.3
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def images():
    inputs = keras.Input((10, 10, 3))
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(16, 3, use_bias=False, name="conv")(inputs))
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(layers.ReLU()(x))
    x = layers.Flatten()(layers.SeparableConv2D(8, 3, name="separable")(x))
    x = layers.Dense(20, activation="relu", name="dense")(x)
    return keras.Model(inputs, layers.EinsumDense("ab,bc->ac", output_shape=5, bias_axes="c", name="einsum")(x))


def attention():
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, layers.Dense(8)(layers.MultiHeadAttention(2, 8)(inputs, inputs)))


def quantized_in_place(model, bits=2):
    before = {}
    for variable in model.weights:
        if len(variable.shape) > 1 and variable.name != "bias":
            before[id(variable)] = variable.numpy()
            codes, codebook = Codebook(bits).fit(variable.numpy())
            variable.assign(codebook[codes])
    return before


def mean_error(model, x, want):
    axes = tuple(range(want.ndim - 1))
    return np.abs((model.predict(x, verbose=0) - want).mean(axis=axes)).max()


@pytest.mark.parametrize("build", [images, attention])
def test_mean_error_falls(build):
    model = filled(build())
    rng = np.random.default_rng(1)
    data, others = (rng.uniform(0, 1, (300, *model.input_shape[1:])).astype(np.float32) for _ in range(2))
    want = model.predict(others, verbose=0)
    before = quantized_in_place(model)
    error = mean_error(model, others, want)
    kernels = [variable.numpy() for variable in model.weights if id(variable) in before]
    bias_correction.correct(model, data, before=before)
    # Of other examples: what is left is the noise of 300 of them, and the errors that later layers make of inputs.
    assert mean_error(model, others, want) < 0.5 * error
    for variable, values in zip([v for v in model.weights if id(v) in before], kernels, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


def test_every_layer_with_a_bias_is_corrected_and_others_where_they_are_normalized():
    model = filled(images())
    data = np.random.default_rng(1).uniform(0, 1, (20, 10, 10, 3)).astype(np.float32)
    paths = bias_correction.correct(model, data, before=quantized_in_place(model))
    assert paths == ["bn/moving_mean", "depthwise/bias", "separable/bias", "dense/bias", "einsum/bias"]


def test_a_linear_layer_has_its_mean_back_exactly():
    model = filled(keras.Sequential([keras.Input((8,)), layers.Dense(4, activation="relu")]))
    data = np.random.default_rng(1).uniform(-1, 1, (64, 8)).astype(np.float32)
    kernel, bias = model.layers[0].get_weights()
    before = quantized_in_place(model)
    bias_correction.correct(model, data, before=before)
    changed, corrected = model.layers[0].get_weights()
    # float32 rounding of sums of 8 products of size 1
    np.testing.assert_allclose(
        (data @ changed + corrected).mean(axis=0), (data @ kernel + bias).mean(axis=0), atol=1e-6
    )


def test_layers_are_as_before_and_what_is_not_quantized_stays():
    model = filled(images())
    data = np.zeros((2, 10, 10, 3), np.float32)
    weights = model.get_weights()
    assert bias_correction.correct(model, data, before={}) == []
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all("call" not in vars(layer) for layer in model.layers)
    with pytest.raises(ValueError, match=r"."):
        bias_correction.correct(model, np.zeros((2, 3)), before=quantized_in_place(model))
    assert all("call" not in vars(layer) for layer in model.layers)
    assert model.get_layer("dense").activation is keras.activations.relu
