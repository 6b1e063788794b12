"""quantize(model) against the file for every kind of kernel, with folded scales, under every scheme."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune import Codebook, Int8

layers = keras.layers


def images():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.BatchNormalization(name="bn2")(layers.DepthwiseConv2D(3, name="depthwise")(x))
    x = layers.Conv2D(16, 3, dilation_rate=2, activation="relu", name="dilated")(x)
    x = layers.Conv2DTranspose(16, 3, strides=2, name="transposed")(x)
    x = layers.SeparableConv2D(24, 3, name="separable")(x)
    x = layers.Conv2D(24, 3, groups=2, name="grouped")(x)
    x = layers.BatchNormalization(name="bn3")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(40, name="dense")(x))


def sequences():
    inputs = keras.Input((10,), dtype="int32")
    x = layers.Embedding(60, 16, name="embedding")(inputs)
    x = layers.Conv1D(24, 3, name="conv1d")(x)
    x = layers.LSTM(16, unroll=True, return_sequences=True, name="lstm")(x)
    x = layers.GRU(16, unroll=True, return_sequences=True, name="gru")(x)
    x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    return keras.Model(inputs, layers.EinsumDense("abc,cde->abde", output_shape=(None, 4, 6), name="einsum")(x))


def pruned(build, density=0.3):
    model, rng = build(), np.random.default_rng(0)
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        if variable.name.endswith(("kernel", "embeddings")):
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    return model


def inputs_of(model, number=32):
    rng = np.random.default_rng(1)
    shape = (number, *model.input_shape[1:])
    if len(shape) == 2:
        return rng.integers(0, 60, shape).astype(np.int32)
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "scheme",
    [Codebook(3), *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in (None, Int8(), "float16"))],
    ids=str,
)
@pytest.mark.parametrize("build", [images, pytest.param(sequences, marks=pytest.mark.slow)])
def test_predictions_are_those_of_the_file(build, scheme):
    model = pruned(build)
    data = keras_prune.export_tflite(model, weights=scheme)
    quantized = keras_prune.quantize(model, scheme)
    x = inputs_of(model)
    want, exact = quantized.predict(x, verbose=0), model.predict(x, verbose=0)
    largest = np.abs(want).max()
    # float32 sums in another order, through ten layers
    np.testing.assert_allclose(keras_prune.predict_tflite(data, x), want, atol=2e-5 * largest)
    assert np.abs(want - exact).max() > 1e-4 * largest  # the scheme is not nothing
    for one, other in zip(model.weights, quantized.weights, strict=True):
        assert (other.numpy()[one.numpy() == 0] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [Int8(), Codebook(3)], ids=str)
def test_exporting_the_quantized_model_gives_the_same_predictions_again(scheme):
    model = pruned(images)
    x = inputs_of(model)
    quantized = keras_prune.quantize(model, scheme)
    want = quantized.predict(x, verbose=0)
    once, again = (keras_prune.export_tflite(m, weights=scheme) for m in (model, quantized))
    assert len(again) <= len(once) + 64  # names may differ by a digit or two
    np.testing.assert_allclose(keras_prune.predict_tflite(again, x), want, atol=2e-5 * np.abs(want).max())


def test_layers_by_name_and_expression():
    model = pruned(images)
    weights = {"conv": "lossless", "d.*": Int8(), "separable/pointwise_kernel": Codebook(2)}
    quantized = keras_prune.quantize(model, weights)
    kernels = {v.path: (v.numpy(), w.numpy()) for v, w in zip(model.weights, quantized.weights, strict=True)}
    np.testing.assert_array_equal(*kernels["conv/kernel"])
    assert len(np.unique(kernels["separable/pointwise_kernel"][1])) == 4
    assert (
        len(np.unique(kernels["grouped/kernel"][1])) > 128
    )  # 8 bits, as by default; a linear start leaves some values without weights
    before, after = (values.reshape(-1, 16) for values in kernels["dilated/kernel"])
    steps = np.abs(before).max(axis=0) / 127
    np.testing.assert_allclose(after / steps, np.round(after / steps), atol=1e-4)
    with pytest.raises(ValueError, match=r"got 'convolved'; this model has: (.|\n)*conv/kernel"):
        keras_prune.quantize(model, {"convolved": Int8()})


def test_bias_correction_reaches_the_file():
    model = pruned(images)
    x = np.abs(inputs_of(model, 200))
    want = model.predict(x, verbose=0)
    weights = Codebook(2)
    plain, corrected = (keras_prune.quantize(model, weights, data=data) for data in (None, x))
    errors = [np.abs((m.predict(x, verbose=0) - want).mean(axis=0)).max() for m in (plain, corrected)]
    assert errors[1] < 0.2 * errors[0]
    file = keras_prune.export_tflite(corrected, weights=weights)
    got = corrected.predict(x, verbose=0)
    np.testing.assert_allclose(keras_prune.predict_tflite(file, x), got, atol=2e-5 * np.abs(got).max())
