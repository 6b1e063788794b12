"""The native op for masks: where it is used, and that it computes what TensorFlow's operators do."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from op_calls import run_fresh  # type: ignore[import-not-found]

import keras_prune
from keras_prune import mask_op


def small_model(**compile_options):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)])
    model.compile("adam", "mse", **compile_options)
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6)).astype(np.float32), rng.normal(size=(32, 2)).astype(np.float32)


@pytest.fixture(name="traced")
def traced_calls(monkeypatch):
    """The masks for which steps that are traced call the op; TensorFlow may trace a step twice."""
    calls, masked = [], mask_op.masked

    def counting(w, mask):
        if not tf.executing_eagerly():
            calls.append(mask)
        return masked(w, mask)

    monkeypatch.setattr(mask_op, "masked", counting)
    return calls


def fit(model, **options):
    """Fits with half of the weights pruned; returns the mask of zeros of the first kernel."""
    pruning = keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.5, begin_step=0, end_step=0))
    model.fit(*data(), epochs=1, verbose=0, callbacks=[pruning], **options)
    zeros = model.layers[0].kernel.numpy() == 0
    assert zeros.sum() == 15
    return zeros


@pytest.mark.parametrize("shape", [(3, 5), (2, 2, 3, 7), (1, 1), (0, 4)])
def test_keeps_every_bit_of_kept_weights_and_zeroes_the_others(shape):
    rng = np.random.default_rng(1)
    w = rng.normal(size=shape).astype(np.float32)
    w.reshape(-1)[1::3] = np.nan
    w.reshape(-1)[2::4] = -0.0
    mask = (rng.random(shape) < 0.5).astype(np.uint8)
    got = mask_op.masked(tf.constant(w), tf.constant(mask)).numpy()
    assert got.tobytes() == np.where(mask != 0, w, np.float32(0)).tobytes()


@pytest.mark.parametrize(
    ("w", "mask", "message"),
    [
        (np.ones((2, 3), np.float32), np.ones((3, 2), np.uint8), "of one shape"),
        (np.ones((2, 3), np.float32), np.ones(6, np.uint8), "of one shape"),
    ],
)
def test_unequal_shapes_are_refused(w, mask, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        mask_op.masked(tf.constant(w), tf.constant(mask))


def test_an_instruction_set_that_is_not_known_is_refused(tmp_path):
    code = """
import os
os.environ["KERAS_PRUNE_ISA"] = "mmx"
import tensorflow as tf
from keras_prune import mask_op, ops
w, mask = tf.ones((2, 3)), tf.ones((2, 3), tf.uint8)
calls = [lambda: mask_op.masked(w, mask), lambda: ops.relative_index_matmul(w, ops.pack_weights(tf.ones((3, 2))))]
for call in calls:
    try:
        call()
    except tf.errors.InvalidArgumentError as error:
        print(error)
"""
    message = "KERAS_PRUNE_ISA names an instruction set that is unknown or that this CPU lacks; unset it"
    assert run_fresh(code, tmp_path).count(message) == 2


def test_a_traced_call_has_the_shape_of_the_weights():
    traced = tf.function(mask_op.masked).get_concrete_function(
        tf.TensorSpec((3, 5), tf.float32), tf.TensorSpec((3, 5), tf.uint8)
    )
    assert traced.output_shapes == (3, 5)


def test_fit_uses_the_op_and_a_later_step_for_xla_does_not(traced):
    model = small_model(jit_compile=False)
    zeros = fit(model)
    assert {id(mask) for mask in traced} == {id(layer.kernel.constraint.mask) for layer in model.layers}
    traced.clear()
    model.compile("adam", "mse", jit_compile=True)
    model.fit(*data(), epochs=1, verbose=0)
    assert not traced
    assert (model.layers[0].kernel.numpy()[zeros] == 0).all()


def test_a_step_compiled_by_xla_does_without_the_op(traced):
    fit(small_model(jit_compile=True))
    assert not traced


def test_other_types_do_without_the_op():
    with_float16 = keras.Variable(np.zeros((2, 2)), dtype="float16")
    with_float32 = keras.Variable(np.zeros((2, 2)), dtype="float32")
    mask, bool_mask = keras.Variable(np.ones((2, 2)), dtype="uint8"), keras.Variable(np.ones((2, 2)), dtype="bool")
    assert mask_op.fits(with_float32, mask)
    assert not mask_op.fits(with_float16, mask)
    assert not mask_op.fits(with_float32, bool_mask)


def test_training_is_the_same_with_and_without_the_op(monkeypatch, traced):
    weights = []
    for fits in (mask_op.fits, lambda *_: False):
        monkeypatch.setattr(mask_op, "fits", fits)
        keras.utils.set_random_seed(0)
        model = small_model(jit_compile=False)
        fit(model, shuffle=False)
        weights.append(model.get_weights())
        assert bool(traced) == (len(weights) == 1)
        traced.clear()
    for with_op, without in zip(*weights, strict=True):
        np.testing.assert_array_equal(with_op, without)
