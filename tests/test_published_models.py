"""Published models: packed they are smaller, run, and match the original (make them available beside the checkout)."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from stock_files import run, weights_of  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import converter, flatbuffer
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.transformations.densify import densify

SPARSE, DENSE = "mediapipe_hand_landmark_sparse_v1.tflite", "mlperf_tiny_vww_96_float.tflite"


@pytest.fixture
def model_path(data_dir):
    def find(name) -> pathlib.Path:
        path = data_dir / "models" / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    return find


def assert_close(got, want):
    """Within 1e-4 of the largest output: the same weights, sums in another order."""
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-4 * np.abs(values).max())


def test_sparse_model_is_smaller_without_loss(model_path):
    """Published at 80 % sparsity in TFLite's own sparse tensors."""
    data = model_path(SPARSE).read_bytes()
    result = keras_prune.pack_tflite(data)
    assert len(data) >= 1.2 * len(result)
    x = images(224)
    assert_close(run(result, x), run(data, x))
    before = sparse_weights_of(data)
    assert len(before) == 30
    after = {weights.tobytes() for weights in [*weights_of(result).values(), *sparse_weights_of(result)]}
    assert {weights.tobytes() for weights in before} <= after
    layers = [layer for layer in packed_layers(flatbuffer.read(result)) if layer.kept < 0.21 * layer.num_weights]
    assert len(layers) >= 25  # the others take less than 3 KB each


def images(side):
    return np.random.default_rng(0).random((1, side, side, 3)).astype(np.float32)


def sparse_weights_of(data):
    """The dense values of TFLite's own sparse tensors."""
    model = flatbuffer.read(data)
    return [densify(model, tensor) for tensor in model.subgraphs[0].tensors if tensor.sparsity is not None]


def test_sparse_model_with_codebooks_on_all_weights(model_path):
    data = model_path(SPARSE).read_bytes()
    result = keras_prune.pack_tflite(data, weights=Codebook(bits=8), min_sparsity=0)
    assert len(data) >= 4 * len(result)
    assert run(result).keys() == run(data).keys()


@pytest.mark.slow  # the exact codebooks of 93 layers
def test_sparse_model_with_the_best_codebooks(model_path):
    data, x = model_path(SPARSE).read_bytes(), images(224)
    result = keras_prune.pack_tflite(data, weights=Codebook(bits=8, optimum=True), min_sparsity=0)
    assert len(data) >= 4 * len(result)
    landmarks, expected = run(result, x)["Identity"], run(data, x)["Identity"]
    # 255 shared values a layer and no training after it; on noise, for which the network has no answer: 8 % here.
    np.testing.assert_allclose(landmarks, expected, rtol=0, atol=0.15 * np.abs(expected).max())


def test_dense_model_is_no_larger_and_computes_the_same(model_path):
    data = model_path(DENSE).read_bytes()
    result = keras_prune.pack_tflite(data)
    assert len(result) <= len(data)
    x = images(96)
    assert_close(run(result, x), run(data, x))


def test_dense_keras_model_is_no_larger_and_computes_the_same(model_path):
    model = keras.saving.load_model(model_path("mlperf_tiny_ad01.h5"), compile=False)
    data = converter.convert(model)
    result = keras_prune.pack_tflite(data)
    assert len(result) <= len(data)
    assert_close(run(result), run(data))


@pytest.mark.slow
def test_keras_model_pruned_to_80_percent(model_path):
    model = keras.saving.load_model(model_path("mlperf_tiny_ad01.h5"), compile=False)
    keras_prune.prune(model, 0.8)
    stock = keras_prune.export_tflite(model, target="stock")
    result = keras_prune.export_tflite(model, weights=Codebook(bits=4))
    assert len(stock) >= 12 * len(result)
    quantized = keras_prune.quantize(model, Codebook(bits=4))
    x = np.random.default_rng(0).normal(size=(8, 640)).astype(np.float32)
    want = quantized.predict(x, verbose=0)
    got = keras_prune.predict_tflite(result, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
