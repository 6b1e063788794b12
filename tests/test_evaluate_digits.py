"""A real pruned network, trained on scikit-learn's digits: the file is within a few percent of the entropy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_prune
from keras_prune_export import converter, evaluate, layer_bytes, layer_errors, predict_tflite

CODEBOOK = keras_prune.Codebook(bits=5)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


@pytest.fixture(scope="module")
def model(digits):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(300, "relu"), keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits, epochs=4, batch_size=64, verbose=0)
    schedule = keras_prune.PolynomialDecay(final_sparsity=0.9)
    model.fit(*digits, epochs=8, batch_size=64, verbose=0, callbacks=[keras_prune.PruneCallback(schedule)])
    return keras_prune.strip(model)


@pytest.fixture(scope="module")
def data(model):
    return keras_prune.export_tflite(model, weights=CODEBOOK)


@pytest.fixture(scope="module")
def reference(model):
    return converter.convert(model)


def test_file_is_near_the_entropy(data):
    *layers, constants, tables = layer_bytes.layer_bytes(data)
    assert {row.form for row in layers} == {"compute"}
    assert constants.num_bytes == 4 * (300 + 100 + 10)
    assert tables.num_bytes <= 2 * 1024
    assert sum(row.num_bytes for row in [*layers, constants, tables]) == len(data)
    codebooks = sum(row.codebook for row in layers)
    bound = sum(row.entropy_bound for row in layers)
    assert len(data) <= 1.08 * bound + codebooks + constants.num_bytes + 3 * 1024
    assert bound > 3 * 1024  # the allowance for the flatbuffer does not hide the rest


def test_errors_of_the_packed_file(model, data, *, reference, digits):
    x = digits[0]
    errors = layer_errors.layer_errors(data, reference, x)
    assert len(errors) == 3
    quantized = keras_prune.quantize(model, CODEBOOK)
    kernels = zip(model.layers, quantized.layers, strict=True)
    for error, (before, after) in zip(errors, kernels, strict=True):
        want, got = (layer.kernel.numpy().astype(np.float64) for layer in (before, after))
        assert error.weight_error == pytest.approx(np.abs(got - want).max() / np.abs(want).max(), rel=1e-12)
    outputs = [predict_tflite(each, x[: layer_errors.MOST_EXAMPLES]) for each in (data, reference)]
    # the same sums in other kernels: float32 sums of up to 300 terms
    want = np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max()
    assert errors[-1].output_error == pytest.approx(want, rel=1e-3)


def test_keras_model_as_reference(model, data, *, reference, digits):
    images, labels = (values[:100] for values in digits)
    result = evaluate.evaluate_tflite(data, images, labels, reference=model)
    assert [error.kind for error in result.errors] == ["KerasPruneFullyConnected"] * 3
    assert result.errors == layer_errors.layer_errors(data, reference, images)
