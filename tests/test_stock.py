"""The stock target: plain files that run under the default interpreter, and on older runtimes."""

from __future__ import annotations

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

import keras_prune
from keras_prune import Codebook, Int8
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import stock

layers = keras.layers
OLD_RUNTIME = ("tflite-runtime==2.14.0", "numpy<2")


def images():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(32, 1)(layers.DepthwiseConv2D(3)(x))
    return keras.Model(inputs, layers.Dense(40)(layers.Flatten()(x)))


def sequences():
    x = inputs = keras.Input((6, 32))
    x = layers.LSTM(64, unroll=True, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 16)(x, x)
    return keras.Model(inputs, layers.Dense(40)(layers.GlobalAveragePooling1D()(x)))


def tokens():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Conv1D(32, 3)(layers.Embedding(100, 32)(inputs))
    return keras.Model(inputs, layers.Dense(40)(layers.GlobalAveragePooling1D()(x)))


# The largest error as a share of the largest output: float32 sums in another order; 11 bits of significand; 8 bits of
# weights and activations, added up over a few layers. And bytes against float32: half or a quarter, and the graph.
KINDS = {
    "float32": ({}, 1e-5, 1.0),
    "float16": ({"weights": "float16"}, 2e-3, 0.62),
    "dynamic_range": ({"weights": Int8()}, 0.03, 0.55),
    "int8": ({"activations": "int8"}, 0.08, 0.6),
    "sparse": ({"weights": "sparse"}, 1e-5, 0.9),
}


def pruned(build):
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) > 1:
            variable.assign(variable.numpy() * (rng.random(variable.shape) < 0.3))
    return model


@functools.cache
def made(build, kind):
    model, rng = pruned(build), np.random.default_rng(1)
    shape = (50, *model.input_shape[1:])
    x = rng.integers(0, 100, shape).astype(np.int32) if build is tokens else rng.normal(size=shape).astype(np.float32)
    options = dict(KINDS[kind][0])
    if kind == "int8":
        options["representative_data"] = x
    return stock.make(model, **options), x, model.predict(x, verbose=0)


def run(data, x):
    interpreter = litert.Interpreter(model_content=data)  # default settings: XNNPACK takes what it can
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [images, pytest.param(sequences, marks=pytest.mark.slow), tokens])
def test_runs_under_the_default_interpreter(build, kind):
    data, x, want = made(build, kind)
    _, tolerance, share = KINDS[kind]
    np.testing.assert_allclose(run(data, x), want, atol=tolerance * np.abs(want).max())
    assert len(data) <= share * len(made(build, "float32")[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sparse"])
def test_zeros_stay_and_nothing_is_sparse(kind):
    file = flatbuffer.read(made(images, kind)[0])
    weights = []
    for tensor in file.subgraphs[0].tensors:
        assert tensor.sparsity is None
        data = file.buffers[tensor.buffer].data
        if data is not None and len(flatbuffer.indices(tensor.shape)) in (2, 4):
            dtype = {0: np.float32, 1: np.float16, 9: np.int8}[tensor.type]
            weights.append(np.asarray(data, np.uint8).view(dtype))
            assert tensor.type != schema.TensorType.INT8 or not np.any(tensor.quantization.zeroPoint)
    assert len(weights) == 4
    for values in weights:
        assert np.mean(values == 0) > 0.6  # 70 % were pruned


def test_dynamic_range_is_of_a_version_that_older_runtimes_have():
    for build in (images, sequences):
        codes = flatbuffer.read(made(build, "dynamic_range")[0]).operatorCodes
        versions = {c.version for c in codes if c.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED}
        assert versions <= set(range(1, 10))


RUN = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1])
x = np.load(sys.argv[2])
index = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(index, x.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(index, x)
interpreter.invoke()
np.save(sys.argv[3], interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel beyond Python 3.11")
def test_runs_on_the_older_runtime(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *OLD_RUNTIME], check=True)
    for build in (images, sequences, tokens):
        for kind, (_, tolerance, _) in KINDS.items():
            data, x, want = made(build, kind)
            file, inputs, outputs = (tmp_path / name for name in ("model.tflite", "x.npy", "y.npy"))
            file.write_bytes(data)
            np.save(inputs, x)
            subprocess.run([python, "-c", RUN, file, inputs, outputs], check=True)
            np.testing.assert_allclose(np.load(outputs), want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": Codebook(4)}, r"got a codebook; (.|\n)*take target='packed'"),
        ({"weights": {"dense": Int8()}}, "got a dict of layers"),
        ({"weights": "int8"}, "expected weights to be None"),
        ({"activations": "int16"}, "expected activations to be one of"),
        ({"activations": "int8"}, "expected representative_data with activations='int8', got none"),
        ({"representative_data": np.zeros((3, 2))}, "expected representative_data only with activations='int8'"),
        (
            {"weights": "float16", "activations": "int8", "representative_data": np.zeros((3, 2))},
            "with activations='int8', got 'float16'",
        ),
    ],
)
def test_what_stock_files_do_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        stock.make(None, **options)


def test_export_writes_stock_files_and_packs_int8_ones_without_loss():
    _, x, want = made(images, "int8")
    model, options = pruned(images), {"activations": "int8", "representative_data": x}
    plain = keras_prune.export_tflite(model, target="stock", **options)
    np.testing.assert_allclose(run(plain, x), want, atol=KINDS["int8"][1] * np.abs(want).max())
    packed = keras_prune.export_tflite(model, weights=Int8(), **options)
    assert len(packed) < 0.7 * len(plain)
    np.testing.assert_array_equal(keras_prune.predict_tflite(packed, x), run(plain, x))


def test_export_refuses_what_a_target_does_not_have():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="export_tflite: expected weights to be None, 'float16'"):
        keras_prune.export_tflite(model, target="stock", weights=Codebook(4))
    int8 = {"target": "stock", "activations": "int8", "representative_data": np.zeros((3, 4))}
    with pytest.raises(ValueError, match=r"expected weights=keras_prune.Int8\(\) with activations='int8', got Codeb"):
        keras_prune.export_tflite(model, weights=Codebook(4), **int8)
    with pytest.raises(ValueError, match="expected representative_data with activations='int8', got none"):
        keras_prune.export_tflite(model, activations="int8", weights=Int8())
    with pytest.raises(ValueError, match="expected representative_data only with activations='int8'"):
        keras_prune.export_tflite(model, representative_data=np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: None, "convert: representative_data: expected a function that yields lists of inputs, got one that"),
        (np.ones((3, 4), np.complex64), "convert: representative_data: expected real numbers"),
        (np.ones(4), r"got an array of shape \(4,\), not of \(examples, 4\)"),
        (np.ones((0, 4)), "expected at least one example"),
        (np.ones((3, 5)), r"expected at least one example of shape \(4,\)"),
        (np.full((3, 4), np.inf), "convert: expected finite numbers as representative_data, got NaN or infinity"),
        ("data", "expected real numbers"),
        (lambda: [[np.full((1, 4), np.nan, np.float32)]], "the converter found none; pass some hundred typical inputs"),
    ],
)
def test_data_of_which_the_converter_would_make_a_float_file_is_refused(data, message):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match=message):
        keras_prune.export_tflite(model, target="stock", activations="int8", representative_data=data)


def test_a_function_may_return_what_can_be_gone_through_once():
    model, x = keras.Sequential([keras.Input((4,)), layers.Dense(3)]), np.eye(4, dtype=np.float32)
    calls = []

    def examples():
        calls.append(1)
        return iter([[x[:2]], [x[2:]]])

    int8 = {"target": "stock", "activations": "int8"}
    data = keras_prune.export_tflite(model, **int8, representative_data=examples)
    assert data == keras_prune.export_tflite(model, **int8, representative_data=x)
    assert calls
