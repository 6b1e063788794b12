"""Stock files with TFLite's own sparse tensors: they shrink, run under the default interpreter, and are checked."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]
from stock_files import operators  # type: ignore[import-not-found]
from test_stock import run  # type: ignore[import-not-found]

import keras_prune
from keras_prune import Int8
from keras_prune_export import converter, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import sparse

layers = keras.layers


def pointwise(*, pooled_convolution=False):
    inputs = keras.Input((12, 12, 16))
    x = layers.Conv2D(48, 1, activation="relu")(inputs)
    x = layers.Conv2D(48, 1)(layers.DepthwiseConv2D(3)(x))
    x = layers.GlobalAveragePooling2D(keepdims=pooled_convolution)(x)
    head = layers.Conv2D(40, 1) if pooled_convolution else layers.Dense(40)
    return prune(keras.Model(inputs, head(x)), density=0.15)


@pytest.fixture(scope="module")
def model():
    return pointwise()


@pytest.fixture(scope="module")
def dense(model):
    return converter.convert(model)


@pytest.fixture(scope="module")
def data(model):
    return keras_prune.export_tflite(model, target="stock", weights="sparse")


def test_smaller_and_the_same_outputs(model, dense, data):
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 16)).astype(np.float32)
    got = run(data, x)
    # float32 sums, maybe in another order
    np.testing.assert_allclose(got, run(dense, x), rtol=0, atol=1e-5 * np.abs(got).max())
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=0, atol=1e-5 * np.abs(got).max())
    assert len(data) < 0.5 * len(dense)
    assert operators(data).count("DENSIFY") == 4
    tensors = flatbuffer.read(data).subgraphs[0].tensors
    assert {tensor.type for tensor in tensors if tensor.sparsity is not None} == {schema.TensorType.FLOAT32}
    assert not any(tensor.type == schema.TensorType.INT8 for tensor in tensors)


def test_saved_model_as_source(model, data, tmp_path):
    with converter.quiet():
        model.export(tmp_path / "1")
    assert len(keras_prune.export_tflite(tmp_path / "1", target="stock", weights="sparse")) == len(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"weights='sparse' \(TFLite's own sparse tensors\) only with target='stock', got target='packed'"),
        ({"target": "stock", "activations": "int8", "representative_data": [[0]]}, "refuses files that are sparse and"),
        ({"target": "stock", "activations": "int8"}, "refuses files that are sparse and quantized"),
    ],
)
def test_never_together_with_quantization(model, options, message):
    with pytest.raises(ValueError, match=message):
        keras_prune.export_tflite(model, weights="sparse", **options)


def test_not_a_scheme_of_a_layer(model):
    with pytest.raises(ValueError, match="expected weights to be None"):
        keras_prune.export_tflite(model, target="stock", weights={"dense": "sparse"})
    with pytest.raises(ValueError, match="expected weights to be None"):
        keras_prune.pack_tflite(b"", weights="sparse")
    with pytest.raises(TypeError, match="pass Int8"):
        keras_prune.export_tflite(model, target="stock", weights=Int8)


def test_nothing_sparse():
    with pytest.raises(ValueError, match="prune the model first"):
        sparse.make(keras.Sequential([keras.Input((32,)), layers.Dense(40)]))


def test_convolution_of_pooled_features_is_refused():
    with pytest.raises(ValueError, match=r"no convolution of pooled features(.|\n)*fails at run time on ARM64"):
        sparse.make(pointwise(pooled_convolution=True))


def edited(data, edit):
    file = flatbuffer.read(data)
    edit(file, next(tensor for tensor in file.subgraphs[0].tensors if tensor.sparsity is not None))
    return flatbuffer.write(file)


def test_file_that_computes_something_else_is_refused(dense, data):
    def double(file, tensor):
        values = np.frombuffer(bytes(file.buffers[tensor.buffer].data), np.float32)
        file.buffers[tensor.buffer].data = np.frombuffer((2 * values).tobytes(), np.uint8)

    sparse.check_runs(data, dense, "test")
    with pytest.raises(ValueError, match=r"test: expected the outputs of the dense file(.|\n)*target='packed'"):
        sparse.check_runs(edited(data, double), dense, "test")


def test_file_that_does_not_load_is_refused(dense, data):
    def version(file, _):
        for code in file.operatorCodes:
            code.version = 99

    with pytest.raises(ValueError, match=r"test: expected a file with TFLite's sparse tensors that runs(.|\n)*runtime"):
        sparse.check_runs(edited(data, version), dense, "test")
