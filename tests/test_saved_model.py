"""Packed SavedModels: every kind of model, served by stock TensorFlow, computes what the dense one does, bit by bit."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import saved_models  # type: ignore[import-not-found]
import serving_session  # type: ignore[import-not-found]
import tensorflow as tf

import keras_prune
from keras_prune_export import dense_saved_model

layers = keras.layers


def examples(path, batch=3):
    """Inputs as the signature names them."""
    rng = np.random.default_rng(3)
    result = {}
    for name, info in serving_session.signature(path).inputs.items():
        shape = [dim.size for dim in info.tensor_shape.dim]
        assert shape[0] == -1  # a free batch dimension
        dtype = tf.as_dtype(info.dtype)
        values = rng.integers(0, 50, (batch, *shape[1:])) if dtype.is_integer else rng.normal(size=(batch, *shape[1:]))
        result[name] = values.astype(dtype.as_numpy_dtype)
    return result


def serve(path, inputs):
    return serving_session.Session(path)(inputs)


def export_dense(model, path):
    with dense_saved_model.converter.quiet():
        model.export(path)
    return path


def assert_same(got, want):
    assert set(got) == set(want)
    for name in want:
        assert got[name].dtype == want[name].dtype
        np.testing.assert_array_equal(got[name], want[name])


SLOW = ("recurrent", "attention", "transposed", "half")
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in saved_models.KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_computes_what_its_dense_saved_model_does(kind, tmp_path):
    model = saved_models.prune(saved_models.KINDS[kind]())
    before = [weight.numpy() for weight in model.weights]
    keras_prune.export_saved_model(model, tmp_path / "packed")
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), values)
    model.set_weights(saved_models.quantized_weights(model))
    inputs = examples(tmp_path / "packed")
    assert_same(serve(tmp_path / "packed", inputs), serve(export_dense(model, tmp_path / "dense"), inputs))


SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
serve = loaded.signatures["serving_default"]
assert "keras_prune" not in sys.modules
np.save(sys.argv[3], serve(x=tf.constant(np.load(sys.argv[2])))["output_0"].numpy())
"""


def test_a_fresh_process_loads_and_serves_without_this_package(tmp_path):
    model = saved_models.prune(saved_models.dense())
    keras_prune.export_saved_model(model, tmp_path / "packed")
    x = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", SCRIPT, tmp_path / "packed", tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    quantized = keras_prune.quantize(model)
    want = serve(export_dense(quantized, tmp_path / "dense"), {"x": x})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want["output_0"])


def test_lenet_is_a_thirtieth_of_its_weights(tmp_path):
    model = saved_models.sequential((784,), layers.Dense(300), layers.Dense(100), layers.Dense(10))
    for layer, density in zip(model.layers, (0.08, 0.09, 0.26), strict=True):
        saved_models.prune(keras.Sequential([layer]), density)
    keras_prune.export_saved_model(model, tmp_path / "packed")
    parts = {str(file.relative_to(tmp_path / "packed")): file for file in (tmp_path / "packed").rglob("*.*")}
    assert set(parts) == {"saved_model.pb", "assets/weights.bin"}
    assert sum(file.stat().st_size for file in parts.values()) * 30 < 4 * 266_610
