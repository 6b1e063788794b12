"""PackedDense: values, config, saving, SavedModels, errors."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from packed_bytes import REFUSED, TINY, changed, refused_bytes  # type: ignore[import-not-found]
from packed_dense import BIAS, KERNEL, make_dense, make_model, random_x  # type: ignore[import-not-found]

import keras_prune
from keras_prune import ops, sparse_format, tensor_format
from keras_prune.layers import PackedDense
from keras_prune.quantization import Codebook

# Keras up to 3.15 reads its variables in a way that NumPy 2 warns about, in Model.save too.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

PACKAGE_PARENT = pathlib.Path(keras_prune.__file__).absolute().parents[1]


def run_fresh(code, folder):
    """Runs Python code in a new process whose current folder is outside the checkout."""
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "softmax", keras.activations.gelu])
def test_equals_dense(use_bias, activation):
    dense = make_dense(use_bias=use_bias, activation=activation, name="head")
    packed = PackedDense.from_dense(dense)
    x = random_x(7, 4)
    np.testing.assert_allclose(packed(x), dense(x), rtol=1e-5, atol=1e-6)
    assert (packed.name, packed.units, packed.use_bias) == ("head", 3, use_bias)
    assert packed.activation is dense.activation


def test_golden_values():
    layer = PackedDense.from_packed(ops.pack_weights(KERNEL), bias=BIAS, activation="relu")
    assert layer(np.array([[1, 2, 3, 4]], np.float32)).numpy().tolist() == [[2.5, 0.0, 17.5 + 2.0 - 2.0]]


def test_leading_dimensions_and_empty_batch():
    dense = make_dense()
    packed = PackedDense.from_dense(dense)
    x = random_x(2, 3, 5, 4)
    np.testing.assert_allclose(packed(x), dense(x), rtol=1e-5, atol=1e-6)
    assert packed(np.zeros((0, 4), np.float32)).shape == (0, 3)
    assert packed.compute_output_shape((None, 5, 4)) == (None, 5, 3)
    assert packed(keras.Input((5, 4))).shape == (None, 5, 3)


def test_weights():
    packed = PackedDense.from_dense(make_dense())
    assert [w.name for w in packed.trainable_weights] == ["bias"]
    assert [w.name for w in packed.non_trainable_weights] == ["packed"]
    assert packed.packed.dtype == "uint8"
    assert packed.packed.shape == (packed.num_bytes,)
    np.testing.assert_array_equal(sparse_format.to_dense(ops.to_numpy(packed.packed)), KERNEL.T)


def test_from_dense_quantizes_as_it_is_told():
    dense = keras.layers.Dense(30)
    dense.build((None, 40))
    for weights in (Codebook(bits=2), Codebook(bits=6)):
        packed = PackedDense.from_dense(dense, weights=weights)
        codes, codebook = weights.fit(ops.to_numpy(dense.kernel))
        np.testing.assert_array_equal(sparse_format.to_dense(ops.to_numpy(packed.packed)), codebook[codes].T)


def test_from_packed_takes_bytes():
    layer = PackedDense.from_packed(ops.pack_weights(KERNEL).tobytes(), name="ours")
    assert (layer.name, layer.use_bias, layer.units) == ("ours", False, 3)
    x = random_x(2, 4)
    np.testing.assert_allclose(layer(x), x @ KERNEL, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("as_type", [bytes, bytearray, memoryview, np.asarray, tf.constant, tf.Variable])
def test_from_packed_takes_what_holds_bytes(as_type):
    packed = ops.pack_weights(KERNEL)
    layer = PackedDense.from_packed(as_type(packed.tobytes() if as_type in (bytes, bytearray, memoryview) else packed))
    x = random_x(2, 4)
    np.testing.assert_allclose(layer(x), x @ KERNEL, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", [what for what in REFUSED if what != "version"])
def test_from_packed_checks_every_rule(what):
    assert PackedDense.from_packed(TINY)(np.array([[1, 10, 100]], np.float32)).numpy().tolist() == [[1.25, -25.0]]
    with pytest.raises(sparse_format.FormatError, match=REFUSED[what][2]):
        PackedDense.from_packed(refused_bytes(what))


def test_from_packed_refuses_another_version():
    with pytest.raises(sparse_format.FormatError, match="expected format version 1, got 3"):
        PackedDense.from_packed(changed(TINY, 4, b"\3"))


def test_from_packed_takes_version_2():
    codes, codebook = Codebook().fit(KERNEL.T)
    packed = tensor_format.encode_codes(codes, codebook)
    layer = PackedDense.from_packed(packed, bias=BIAS)
    assert (layer.units, layer.num_bytes) == (3, len(packed))
    x = random_x(2, 4)
    np.testing.assert_array_equal(layer(x), PackedDense.from_dense(make_dense(use_bias=False))(x) + BIAS)
    with pytest.raises(sparse_format.FormatError, match="expected a codebook, got split values"):
        PackedDense.from_packed(tensor_format.encode_exact(random_x(3, 4)))
    with pytest.raises(sparse_format.FormatError, match="checksum"):
        PackedDense.from_packed(packed[:-1] + bytes([packed[-1] ^ 1]))


def test_constructor_alone_has_every_weight_pruned():
    layer = PackedDense(3)
    assert layer(random_x(2, 4)).numpy().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert layer.num_bytes == 36


def test_config_round_trip():
    arguments = {"num_bytes": 77, "activations": "int8", "name": "p", "dtype": "mixed_bfloat16", "trainable": False}
    layer = PackedDense(5, "relu", False, **arguments)
    config = layer.get_config()
    keys = ("units", "activation", "use_bias", "num_bytes", "activations", "name", "trainable")
    assert {key: config[key] for key in keys} == {
        "units": 5,
        "activation": "relu",
        "use_bias": False,
        "num_bytes": 77,
        "activations": "int8",
        "name": "p",
        "trainable": False,
    }
    again = PackedDense.from_config(config)
    assert again.get_config() == config
    assert again.compute_dtype == "bfloat16"
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)).get_config() == config


@pytest.mark.parametrize("explicit_input", [True, False])
def test_keras_file_is_bit_equal(tmp_path, explicit_input):
    model = make_model()
    if not explicit_input:
        model = keras.Sequential([model.layers[0], model.layers[1], model.layers[2]])
    x = random_x(9, 6)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    assert isinstance(again.layers[1], PackedDense)


def test_weights_file_and_clone(tmp_path):
    model = make_model()
    x = random_x(3, 6)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(clone(x), model(x))


def test_exported_models_in_a_fresh_process(tmp_path):
    model = make_model()
    x = random_x(5, 6)
    expected = model(x).numpy()
    model.export(tmp_path / "exported")
    tf.saved_model.save(model, tmp_path / "saved")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    code = """
import numpy as np, tensorflow as tf, keras
import keras_prune.layers
keras_prune.ops.load()
x = np.load("x.npy")
exported, saved = tf.saved_model.load("exported"), tf.saved_model.load("saved")
np.save("exported.npy", exported.serve(x))
np.save("saved.npy", list(saved.signatures["serving_default"](tf.constant(x)).values())[0])
np.save("keras.npy", keras.models.load_model("model.keras")(x))
"""
    run_fresh(code, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "keras.npy"), expected)
    for name in ("exported", "saved"):  # graphs, in which TensorFlow fuses the other layers' operations
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"units": 0}, "expected units of at least 1, got 0"),
        ({"units": 2.5}, "expected units of at least 1, got 2.5"),
        ({"units": 3, "num_bytes": 35}, "expected num_bytes of at least 36, got 35"),
        ({"units": 3, "activations": "int4"}, r"expected activations to be one of \('float32', 'int8'\), got 'int4'"),
        ({"units": 3, "dtype": "float64"}, "expected a compute type of .* got 'float64'"),
    ],
)
def test_errors_of_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        PackedDense(**arguments)


def test_errors_of_inputs():
    layer = PackedDense.from_dense(make_dense())
    with pytest.raises(ValueError, match=r"expected axis -1 of input shape to have value 4.*\(2, 5\)"):
        layer(random_x(2, 5))
    with pytest.raises(ValueError, match="expected min_ndim=2"):
        layer(random_x(4))
    with pytest.raises(ValueError, match="expected a known last dimension"):
        PackedDense(3).build((2, None))


def test_errors_of_from_dense_and_from_packed():
    with pytest.raises(TypeError, match=r"expected a keras.layers.Dense, got Conv2D"):
        PackedDense.from_dense(keras.layers.Conv2D(1, 1))
    with pytest.raises(ValueError, match="expected a built Dense layer"):
        PackedDense.from_dense(keras.layers.Dense(3))
    with pytest.raises(sparse_format.FormatError, match="truncated"):
        PackedDense.from_packed(b"KPRI")
    packed = ops.pack_weights(KERNEL)
    packed[40] ^= 1
    with pytest.raises(sparse_format.FormatError, match="checksum"):
        PackedDense.from_packed(packed)
    with pytest.raises(sparse_format.FormatError, match=r"expected shape \(num_bytes,\)"):
        PackedDense.from_packed(ops.pack_weights(KERNEL)[None])
    with pytest.raises(TypeError, match="expected bytes or a uint8 array"):
        PackedDense.from_packed(10**8)
    with pytest.raises(ValueError, match="shape"):
        PackedDense.from_packed(ops.pack_weights(KERNEL), bias=np.zeros(4))


def test_bytes_not_loaded_or_of_another_layer_are_refused():
    layer = PackedDense(3, num_bytes=57)
    with pytest.raises(tf.errors.InvalidArgumentError, match="relative_index_matmul"):
        layer(random_x(2, 4))
    other = PackedDense.from_dense(make_dense())
    wide = np.frombuffer(sparse_format.encode(*Codebook().fit(KERNEL), gap_bits=4), np.uint8)  # 4 units, 3 inputs
    assert len(wide) == other.num_bytes
    other.packed.assign(wide)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"packed weights of 3 units and 4 inputs .* got 4 and 3"):
        other(random_x(2, 4))


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        RuntimeError, match="expected Keras's tensorflow backend, got 'jax'; set KERAS_BACKEND=tensorflow"
    ):
        PackedDense(3)
