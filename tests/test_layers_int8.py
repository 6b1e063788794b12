"""PackedDense with int8 activations: bits, saving, training, dtype policies, odd batches and values."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from packed_dense import BIAS, KERNEL, make_dense, make_model, random_x  # type: ignore[import-not-found]

from keras_prune import int8_activations, ops
from keras_prune.layers import PackedDense
from keras_prune.quantization import Codebook

# Keras up to 3.15 reads its variables in a way that NumPy 2 warns about, in Model.save too.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SCALES = (None, 0.01)
EACH_SCALE = pytest.mark.parametrize("x_scale", SCALES)


def want_of(x, x_scale):
    """What the layer of `make_dense` computes with the bias `BIAS`."""
    codes, codebook = Codebook().fit(KERNEL.T)
    rows = np.reshape(x, (-1, 4))
    y = int8_activations.fully_connected(rows, codes, codebook, bias=BIAS, scale=x_scale)
    return y.reshape(*np.shape(x)[:-1], 3)


@EACH_SCALE
def test_bits_and_keras_files(tmp_path, x_scale):
    layer = PackedDense.from_dense(make_dense(), activations="int8", x_scale=x_scale)
    x = random_x(2, 5, 4)
    np.testing.assert_array_equal(layer(x), want_of(x, x_scale))
    model = keras.Sequential([keras.Input((5, 4)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (again.layers[0].activations, again.layers[0].x_scale) == ("int8", x_scale)
    np.testing.assert_array_equal(again(x), want_of(x, x_scale))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone.predict(x, verbose=0), want_of(x, x_scale))


def test_configs_from_before_activations_and_from_before_scales():
    config = PackedDense(5, activations="int8").get_config()
    del config["x_scale"]
    assert PackedDense.from_config(config).x_scale is None
    del config["activations"]
    assert PackedDense.from_config(config).activations == "float32"


@EACH_SCALE
@pytest.mark.parametrize("batch", [0, None])
def test_batches_that_are_empty_or_not_known(batch, x_scale):
    layer = PackedDense.from_dense(make_dense(), activations="int8", x_scale=x_scale)
    assert layer(np.zeros((0, 4), np.float32)).shape == (0, 3)
    assert layer(np.zeros((2, 0, 4), np.float32)).shape == (2, 0, 3)
    function = tf.function(layer, [tf.TensorSpec([batch, None, 4], tf.float32)])
    assert function.get_concrete_function().outputs[0].shape.as_list() == [batch, None, 3]
    x = random_x(0 if batch == 0 else 6, 2, 4)
    np.testing.assert_array_equal(function(x), want_of(x, x_scale))


@EACH_SCALE
def test_zeros_and_values_that_are_not_finite(x_scale):
    layer = PackedDense.from_dense(make_dense(), activations="int8", x_scale=x_scale)
    x = random_x(5, 4)
    x[0], x[1, 2], x[2, 0], x[3, 3] = 0, np.nan, np.inf, -np.inf
    y = layer(x).numpy()
    np.testing.assert_array_equal(y, want_of(x, x_scale))
    np.testing.assert_array_equal(y[0], BIAS)
    assert np.isnan(y[1:4]).all()
    assert np.isfinite(y[4]).all()


def test_values_beyond_the_scale_are_clipped():
    layer = PackedDense.from_dense(make_dense(), activations="int8", x_scale=0.01)
    x = np.array([[1.27, -1.27, 0.5, 0], [300, -1e30, 0.5, 0]], np.float32)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y[0], y[1])


@EACH_SCALE
def test_gradients_go_straight_through_the_rounding(x_scale):
    layer = PackedDense.from_dense(make_dense(), activations="int8", x_scale=x_scale)
    x = tf.Variable(4 * random_x(6, 4))
    upstream = random_x(6, 3, seed=2)
    with tf.GradientTape() as tape:
        y = layer(x)
    dx, dbias = tape.gradient(y, [x, layer.bias], upstream)
    values, step = int8_activations.quantize_codebook(KERNEL.reshape(-1))
    want = upstream.astype(np.float64) @ (values.reshape(KERNEL.shape).astype(np.float64) * step).T
    if x_scale is not None:
        clipped = np.abs(x.numpy()) > np.float32(127) * np.float32(x_scale)
        assert 0 < clipped.sum() < clipped.size
        want[clipped] = 0
    # Sums of three products, each rounded to float32.
    np.testing.assert_allclose(dx, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dbias, upstream.sum(axis=0), rtol=1e-6, atol=1e-6)


@EACH_SCALE
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_mixed_precision_computes_on_rounded_inputs(policy, x_scale):
    dense = make_dense(dtype=policy)
    layer = PackedDense.from_dense(dense, activations="int8", x_scale=x_scale)
    layer.bias.assign(BIAS)
    x = random_x(6, 4)
    rounded = tf.cast(tf.cast(x, layer.compute_dtype), tf.float32).numpy()
    want = tf.cast(want_of(rounded, x_scale), layer.compute_dtype)
    got = layer(x)
    assert got.dtype == layer.compute_dtype
    np.testing.assert_array_equal(tf.cast(got, tf.float32), tf.cast(want, tf.float32))


@EACH_SCALE
@pytest.mark.parametrize("dtype", [None, "mixed_float16"])
def test_trains_the_layers_around_it(seeded, dtype, x_scale):
    model = make_model(dtype=dtype, activations="int8", x_scale=x_scale)
    packed = ops.to_numpy(model.layers[1].packed)
    before = [ops.to_numpy(w) for w in model.trainable_weights]
    model.compile(optimizer="adam", loss="mse")
    x = random_x(64, 6)
    history = model.fit(x, x[:, :2], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert not any(np.array_equal(ops.to_numpy(w), b) for w, b in zip(model.trainable_weights, before, strict=True))
    np.testing.assert_array_equal(ops.to_numpy(model.layers[1].packed), packed)


def test_complex_inputs_are_refused():
    layer = PackedDense.from_dense(make_dense(), activations="int8")
    with pytest.raises(ValueError, match=r"expected real inputs, got .*complex64"):
        layer(random_x(2, 4).astype(np.complex64))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"activations": "int9"}, r"PackedDense: expected activations to be one of \('float32', 'int8'\), got 'int9'"),
        ({"activations": ["int8"]}, r"expected activations to be one of .* got \['int8'\]"),
        ({"activations": None}, "expected activations to be one of .* got None"),
        ({"x_scale": 0.1}, "expected x_scale only with activations='int8', got 0.1 with 'float32'"),
        ({"activations": "int8", "x_scale": 0}, "expected x_scale, one step of x, to be a float32 above 0"),
        ({"activations": "int8", "x_scale": -1.0}, "above 0, or None, got -1.0"),
        ({"activations": "int8", "x_scale": float("nan")}, "got nan"),
        ({"activations": "int8", "x_scale": 1e39}, r"got 1e\+39"),
        ({"activations": "int8", "x_scale": 1e-60}, "got 1e-60"),
        ({"activations": "int8", "x_scale": True}, "got True"),
        ({"activations": "int8", "x_scale": "0.1"}, "got '0.1'"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        PackedDense(3, **arguments)
    with pytest.raises(ValueError, match=match):
        PackedDense.from_dense(make_dense(), **arguments)
