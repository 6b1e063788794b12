"""quantize(model): Keras computes with the values of the packed file."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import converter, evaluate, flatbuffer, tflite
from keras_prune_export.quantization import quantize

layers = keras.layers


def prune(model, *, density=0.2):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.dtype != "float32":
            continue
        values = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        if len(variable.shape) >= 2:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    return model


def packed_matrices(data):
    model = flatbuffer.read(data)
    found = [bytes(b.data) for b in model.buffers if b.data is not None and bytes(b.data[:4]) == sparse_format.MAGIC]
    return [sparse_format.to_dense(packed) for packed in found], found


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def classifier():
    return sequential((64,), layers.Dense(48, activation="relu"), layers.Dense(10))


def folded_after():
    return sequential((64,), layers.Dense(48), layers.BatchNormalization(), layers.ReLU(), layers.Dense(10))


def folded_before():
    norm = layers.BatchNormalization()
    return sequential((64,), layers.Dense(48, activation="relu"), layers.Dropout(0.5), norm, layers.Dense(10))


def rescaled():
    return sequential((64,), layers.Rescaling(1 / 255), layers.Dense(48, activation="relu"), layers.Dense(10))


def convolutional():
    return sequential((8, 8, 2), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(20))


def shared_and_nested():
    inner = sequential((32,), layers.Dense(24, activation="relu"))
    inputs = keras.Input((32,))
    return keras.Model(inputs, layers.Dense(8)(inner(inputs)) + layers.Dense(8)(inner(inputs * 2.0)))


def einsum():
    dense = layers.EinsumDense("abc,cd->abd", output_shape=(6, 24), bias_axes="d")
    return sequential((6, 16), dense, layers.GlobalAveragePooling1D())


def attention():
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 8)(inputs, inputs)))


def recurrent():
    return sequential((5, 12), layers.LSTM(16, unroll=True), layers.Dense(5))


EXACT = [classifier, convolutional, shared_and_nested, einsum, attention, recurrent]
FOLDED = [folded_after, folded_before, rescaled]


@pytest.mark.parametrize("build", EXACT + FOLDED)
def test_predictions_are_those_of_the_file(build):
    model = prune(build())
    data = tflite.export_tflite(model, weights=Codebook(bits=3))
    quantized = quantize(model, Codebook(bits=3))
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype(np.float32)
    got, want = evaluate.predict_tflite(data, x, batch_size=64), quantized.predict(x, verbose=0)
    # float32 sums in another order; the answers themselves must be the same
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.argmax(axis=1), want.argmax(axis=1))
    assert np.abs(want - model.predict(x, verbose=0)).max() > 1e-3  # 3 bits are not nothing


@pytest.mark.parametrize("build", EXACT)
def test_exporting_the_quantized_model_packs_the_same_bytes(build):
    model = prune(build())
    _, before = packed_matrices(tflite.export_tflite(model))
    _, after = packed_matrices(tflite.export_tflite(quantize(model)))
    assert before == after


@pytest.mark.parametrize("build", FOLDED)
def test_exporting_a_folded_quantized_model_packs_the_same_values(build):
    model = prune(build())
    before, _ = packed_matrices(tflite.export_tflite(model))
    after, _ = packed_matrices(tflite.export_tflite(quantize(model)))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # a scale multiplied in and divided out: a few roundings


def test_kernels_are_the_codebook_and_everything_else_stays():
    model = prune(convolutional())
    before = [variable.numpy() for variable in model.variables]
    quantized = quantize(model, Codebook(bits=4))
    assert quantized is not model
    dense = model.layers[-1].kernel.numpy()
    codes, codebook = Codebook(bits=4).fit(dense)
    np.testing.assert_array_equal(quantized.layers[-1].kernel.numpy(), codebook[codes])
    np.testing.assert_array_equal(quantized.layers[-1].kernel.numpy() == 0, dense == 0)
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)
    for one, other in zip(model.layers, quantized.layers, strict=True):
        if one.variables:
            np.testing.assert_array_equal(one.bias.numpy(), other.bias.numpy())
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), quantized.layers[0].kernel.numpy())


def test_what_is_not_pruned_stays():
    model = prune(classifier(), density=0.95)
    quantized = quantize(model)
    for one, other in zip(model.weights, quantized.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    changed = quantize(model, min_sparsity=0.0)
    assert len(np.unique(changed.layers[0].kernel.numpy())) == 16


def test_in_place():
    model = prune(classifier())
    assert quantize(model, in_place=True) is model
    assert len(np.unique(model.layers[0].kernel.numpy())) == 16


class Subclassed(keras.Model):
    def __init__(self, size):
        super().__init__()
        self.dense = layers.Dense(size)

    def call(self, x):
        return self.dense(x)


def test_model_that_cannot_be_copied():
    model = Subclassed(24)
    x = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    model(x)
    prune(model)
    with pytest.raises(ValueError, match=r"cannot be copied(.|\n)*in_place=True"):
        quantize(model)
    quantize(model, in_place=True)
    assert len(np.unique(model.dense.kernel.numpy())) == 16


def test_wrong_arguments():
    model = prune(classifier())
    with pytest.raises(TypeError, match="Codebook"):
        quantize(model, 4)
    with pytest.raises(ValueError, match="min_sparsity"):
        quantize(model, min_sparsity=-1)
    with pytest.raises(TypeError, match="Keras 3 model"):
        quantize(model.layers[0])
    with pytest.raises(ValueError, match="built"):
        quantize(keras.Sequential([layers.Dense(3)]))


def test_matrix_that_the_converter_mixed_with_another_is_refused(monkeypatch):
    model = prune(classifier())
    other = prune(classifier())
    for variable in other.weights:
        variable.assign(np.roll(variable.numpy(), 1, axis=-1) * 0.7)
    data = converter.convert(other)
    monkeypatch.setattr(converter, "convert", lambda _: data)
    with pytest.raises(ValueError, match="none of the model's float32 variables"):
        quantize(model)
