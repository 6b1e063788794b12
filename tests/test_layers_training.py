"""PackedDense in training: gradients, dtype policies, graphs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from packed_dense import BIAS, KERNEL, make_dense, make_model, random_x  # type: ignore[import-not-found]

from keras_prune import ops
from keras_prune.layers import PackedDense


def test_trains_the_layers_around_it(seeded):
    model = make_model()
    packed = ops.to_numpy(model.layers[1].packed)
    before = [ops.to_numpy(w) for w in model.trainable_weights]
    assert len(before) == 5
    model.compile(optimizer="adam", loss="mse")
    assert model.jit_compile is False
    x = random_x(64, 6)
    history = model.fit(x, x[:, :2], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert not any(np.array_equal(ops.to_numpy(w), b) for w, b in zip(model.trainable_weights, before, strict=True))
    np.testing.assert_array_equal(ops.to_numpy(model.layers[1].packed), packed)


def test_gradient_equals_dense():
    dense = make_dense(activation="tanh")
    packed = PackedDense.from_dense(dense)
    x = tf.Variable(random_x(2, 5, 4))
    gradients = []
    for layer in (dense, packed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        gradients.append(tape.gradient(loss, [x, layer.bias]))
    for expected, result in zip(*gradients, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_inside_a_function():
    layer = PackedDense.from_dense(make_dense())
    function = tf.function(layer, [tf.TensorSpec([None, 4], tf.float32)])
    x = random_x(3, 4)
    np.testing.assert_array_equal(function(x), layer(x))
    assert function.get_concrete_function().outputs[0].shape.as_list() == [None, 3]
    layer.packed.assign(ops.pack_weights(-KERNEL))
    np.testing.assert_allclose(function(x), -x @ KERNEL + BIAS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_mixed_precision_computes_in_float32(policy):
    packed = PackedDense.from_dense(make_dense(activation="relu", dtype=policy))
    x = random_x(6, 4)
    y = packed(x)
    assert y.dtype == packed.compute_dtype
    assert packed.packed.dtype == "uint8"
    rounded = tf.cast(tf.cast(x, y.dtype), tf.float32)
    expected = tf.nn.relu(tf.cast(tf.matmul(rounded, KERNEL) + BIAS, y.dtype))
    # One unit in the last place of the compute type: the float32 sums are added in another order.
    ulp = {"float16": 2**-10, "bfloat16": 2**-7}[packed.compute_dtype]
    np.testing.assert_allclose(tf.cast(y, tf.float32), tf.cast(expected, tf.float32), rtol=ulp, atol=1e-6)


def test_mixed_precision_model_trains():
    model = make_model(dtype="mixed_float16")
    model.compile(optimizer="sgd", loss="mse")
    x = random_x(16, 6)
    assert np.isfinite(model.fit(x, x[:, :2], verbose=0).history["loss"][0])
