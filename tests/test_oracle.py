"""The oracle: the exact change of the loss on removal of each unit, compared with values known by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle_models import X, Y, image_data, images, three_units  # type: ignore[import-not-found]

from keras_prune.analysis import Oracle, oracle
from keras_prune.analysis.partial_loss import PartialLoss

# Without a the error is 3 x0, without b it is x1.
CHANGES = [9 * np.mean(X[:, 0] ** 2), np.mean(X[:, 1] ** 2), 0.0]


def by_hand(model: keras.Model, data: tuple[np.ndarray, ...], zeroed: dict[str, int]) -> float:
    """The change of the loss when one index of these variables' last axis is zero."""
    before, loss = model.get_weights(), model.evaluate(*data, verbose=0)
    for variable in model.variables:
        for path, index in zeroed.items():
            if variable.path.endswith(path):
                values = variable.numpy()
                values[..., index] = 0
                variable.assign(values)
    change = model.evaluate(*data, verbose=0) - loss
    model.set_weights(before)
    return change


def test_known_changes():
    found = oracle(three_units(), (X, Y))
    assert found.loss == 0.0
    assert found.units["hidden"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.changes["hidden"], CHANGES, rtol=1e-6)
    assert found.changes["hidden"][2] == 0.0
    assert list(found.changes) == ["hidden"]  # the model's outputs stay
    assert found.num_units == 3


@pytest.fixture(scope="module")
def measured_images() -> tuple[list[np.ndarray], keras.Model, Oracle]:
    """The weights before, the model, and what was found."""
    model = images()
    before = model.get_weights()
    return before, model, oracle(model, image_data())


def test_what_belongs_together_is_removed_together(measured_images):
    _, model, found = measured_images
    data = image_data()
    trunk, head = found.changes.values()
    norm = ["branch/kernel", "norm/gamma", "norm/beta", "norm/moving_mean"]
    for unit in range(4):
        expected = by_hand(model, data, dict.fromkeys(["stem/kernel", "stem/bias", *norm], unit))
        assert trunk[unit] == pytest.approx(expected, abs=2e-6)  # the losses of about 2 are float32
    for unit in range(3):
        expected = by_hand(model, data, dict.fromkeys(["head/kernel", "head/bias"], unit))
        assert head[unit] == pytest.approx(expected, abs=2e-6)
    assert min(map(abs, [*trunk, *head])) > 1e-4  # the comparison is of more than rounding


def test_weights_are_restored(measured_images):
    before, model, _ = measured_images
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_after_an_error(error):
    model, calls = three_units(), []
    before = model.get_weights()

    def measure(model):
        calls.append(np.count_nonzero(model.layers[0].kernel))
        if len(calls) == 4:
            raise error("out of power")
        return 1.0

    with pytest.raises(error, match="out of power"):
        oracle(model, measure)
    assert calls == [4, 4, 3, 3]  # as it is, the group's own beginning, the first unit, the second
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_one_trace_for_all_units():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    def count(units):
        model = keras.Sequential([keras.Input((2,)), Counting(), keras.layers.Dense(units), keras.layers.Dense(1)])
        model.compile(loss="mse")
        traces.clear()
        oracle(model, (X, Y))
        return len(traces)

    assert count(9) == count(2)


def test_penalties_on_weights_are_left_aside():
    model = three_units(kernel_regularizer="l2", bias_regularizer="l1")
    found = oracle(model, (X, Y))
    assert found.loss == 0.0
    np.testing.assert_allclose(found.changes["hidden"], CHANGES, rtol=1e-6)
    assert model.layers[0].kernel.regularizer is not None
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(0.01 * 4)


def test_sample_weights_and_uneven_batches():
    weights = np.array([1.0, 0.0, 2.0, 5.0], np.float32)
    expected = [np.mean(weights * 9 * X[:, 0] ** 2), np.mean(weights * X[:, 1] ** 2), 0.0]
    dataset = tf.data.Dataset.from_tensor_slices((X, Y, weights)).batch(3)
    for data in ((X, Y, weights), dataset):
        np.testing.assert_allclose(oracle(three_units(), data).changes["hidden"], expected, rtol=1e-6)


def test_several_inputs_and_outputs():
    inputs = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    hidden = {name: keras.layers.Dense(3, name=f"dense_{name}")(tensor) for name, tensor in inputs.items()}
    # Keys that are the layers' names: Keras 3.4 finds losses by these alone.
    outputs = {f"out_{name}": keras.layers.Dense(1, name=f"out_{name}")(tensor) for name, tensor in hidden.items()}
    model = keras.Model(inputs, outputs)
    model.compile(loss={"out_left": "mse", "out_right": "mae"}, loss_weights={"out_left": 2.0, "out_right": 1.0})
    data = ({"left": X, "right": X[::-1]}, {"out_left": Y, "out_right": Y[::-1]})
    found = oracle(model, data)
    for name in inputs:
        for unit in range(3):
            paths = dict.fromkeys([f"dense_{name}/kernel", f"dense_{name}/bias"], unit)
            before, loss = model.get_weights(), model.evaluate(*data, verbose=0, return_dict=True)["loss"]
            for variable in model.variables:
                if variable.path in paths:
                    variable.assign(np.where(np.arange(3) == unit, 0, variable.numpy()))
            change = model.evaluate(*data, verbose=0, return_dict=True)["loss"] - loss
            model.set_weights(before)
            assert found.changes[f"dense_{name}"][unit] == pytest.approx(change, rel=1e-4, abs=1e-5)


def test_inputs_in_a_list():
    inputs = [keras.Input((2,)), keras.Input((2,))]
    hidden = keras.layers.Dense(3, name="hidden")
    outputs = keras.layers.Dense(1)(hidden(inputs[0]) + hidden(inputs[1]))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    found = oracle(model, ([X, X[::-1]], Y, None))
    for unit in range(3):
        expected = by_hand(model, ([X, X[::-1]], Y), {"hidden/kernel": unit})  # its bias is zero
        assert found.changes["hidden"][unit] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match=r"as many targets as examples, got arrays of \[3, 4\]"):
        oracle(model, ([X, X], Y[:3]))


def test_activations_that_are_not_kept():
    """Beyond the limit of memory everything is computed anew, with the same result."""
    model, data = images(), image_data()
    kernel = model.get_layer("head").kernel
    some, none = PartialLoss(model, data), PartialLoss(model, data, cache_bytes=0)
    losses = [measured.behind([kernel]) for measured in (some, none)]
    assert losses[0]() == pytest.approx(losses[1](), rel=1e-6)
    kernel.assign(0.5 * kernel)
    assert losses[0]() == pytest.approx(losses[1](), rel=1e-6)
    assert losses[0]() == pytest.approx(model.evaluate(*data, verbose=0), rel=1e-6)
    model.get_layer("stem").kernel.assign(np.zeros((3, 3, 2, 4)))
    assert abs(losses[0]() - losses[1]()) > 1e-3  # what lies before was not computed again


def test_zero_units_are_left_out():
    model = three_units()
    kernel = model.layers[0].kernel
    kernel.assign(kernel * np.array([1.0, 0.0, 1.0]))
    found = oracle(model, (X, Y))
    assert found.units["hidden"].tolist() == [0, 2]
    assert found.changes["hidden"].shape == (2,)


def test_groups_and_protected(measured_images):
    _, model, whole = measured_images
    data = image_data()
    trunk, head = whole.changes
    only = oracle(model, data, groups=head)
    assert list(only.changes) == [head]
    np.testing.assert_array_equal(only.changes[head], whole.changes[head])
    assert list(oracle(model, data, protected=["head"]).changes) == [trunk]
    with pytest.raises(ValueError, match=r"groups: expected some of .*; got \['tail'\]"):
        oracle(model, data, groups=["tail"])


def test_wrong_arguments():
    model = three_units()
    with pytest.raises(TypeError, match="Keras 3 model"):
        oracle("model", (X, Y))
    with pytest.raises(TypeError, match="data: expected"):
        oracle(model, X)
    with pytest.raises(TypeError, match="a generator"):
        oracle(model, ((X, Y) for _ in range(2)))
    with pytest.raises(ValueError, match="at least one batch"):
        oracle(model, tf.data.Dataset.from_tensor_slices((X, Y)).batch(2).take(0))
    with pytest.raises(ValueError, match=r"expected a finite loss, got nan of the model as it is"):
        oracle(model, (X, Y * np.nan))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="compiled with a loss"):
        oracle(model, (X, Y))
