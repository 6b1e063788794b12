"""The oracle: the exact change of the loss on removal of each unit, compared with values known by hand."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_prune.analysis import Oracle, oracle
from keras_prune.analysis.partial_loss import PartialLoss

X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
Y = X @ np.array([[3.0], [1.0]], np.float32)


def three_units(**options) -> keras.Model:
    """y = 3 a + b + 0 c with the units a = x0, b = x1, c = x0 + x1: exact on the data."""
    layers = [keras.layers.Dense(3, name="hidden", **options), keras.layers.Dense(1, name="out", use_bias=False)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    layers[0].set_weights([np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.zeros(3)])
    layers[1].set_weights([np.array([[3.0], [1.0], [0.0]])])
    model.compile(loss="mse")
    return model


# Without a the error is 3 x0, without b it is x1.
CHANGES = [9 * np.mean(X[:, 0] ** 2), np.mean(X[:, 1] ** 2), 0.0]


def images(seed: int = 0) -> keras.Model:
    """Convolutions with a residual sum and normalisation, all weights random."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same", name="branch", use_bias=False)(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    x = keras.layers.Activation("sigmoid")(x + y)  # not zero at zero: what is removed is not the activation
    x = keras.layers.Conv2D(3, 3, strides=2, name="head", activation="relu")(x)
    outputs = keras.layers.Dense(4, name="out")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if "norm" in variable.path or "bias" in variable.path:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def image_data(number: int = 20) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(number, 6, 6, 2)).astype(np.float32)
    return x, generator.integers(0, 4, number).astype(np.int32)


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


def test_a_part_of_each_group(tmp_path):
    path, calls = tmp_path / "oracle.json", []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(1)])

    def measure(model):
        calls.append(1)
        return float(np.sum(np.abs(model.layers[0].kernel.numpy()[0])))

    found = oracle(model, measure, units_per_group=3, resume=path)
    assert found.units["hidden"].tolist() == [0, 2, 4]
    np.testing.assert_allclose(
        found.changes["hidden"], -np.abs(model.layers[0].kernel.numpy()[0, [0, 2, 4]]), rtol=1e-5
    )
    whole = oracle(model, measure, resume=path)
    assert len(calls) == 2 + 3 + 2 + 2  # the three that were measured are not measured again
    np.testing.assert_array_equal(whole.changes["hidden"][[0, 2, 4]], found.changes["hidden"])
    assert oracle(model, measure, units_per_group=9, resume=path).num_units == 5
    with pytest.raises(ValueError, match="units_per_group: expected a whole number >= 1"):
        oracle(model, measure, units_per_group=0)


def test_resume(tmp_path):
    path, calls = tmp_path / "oracle.json", []

    def measure(model):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(np.sum(np.abs(model.layers[0].kernel)))

    with pytest.raises(KeyboardInterrupt):
        oracle(three_units(), measure, resume=path)
    assert json.loads(path.read_text())["points"] == [[-1, 4.0], [0, -1.0]]
    found = oracle(three_units(), measure, resume=path)
    assert found.changes["hidden"].tolist() == [-1.0, -1.0, -2.0]
    assert len(calls) == 4 + 1 + 1 + 2  # as it is, the group's beginning, the two units that were not there
    again = oracle(three_units(), lambda model: 4.0, resume=path)
    assert again.changes["hidden"].tolist() == [-1.0, -1.0, -2.0]
    assert [file.name for file in tmp_path.iterdir()] == ["oracle.json"]


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "oracle.json"
    oracle(three_units(), (X, Y), resume=path)
    with pytest.raises(ValueError, match=r"other settings .data: .*delete the file"):
        oracle(three_units(), (X, Y + 1), resume=path)
    model = three_units()
    model.layers[1].kernel.assign(np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"other settings .weights"):
        oracle(model, (X, Y), resume=path)
    oracle(three_units(), lambda model: 1.0, resume=tmp_path / "other.json")
    with pytest.raises(ValueError, match="got a loss of 2, there 1, of the same weights"):
        oracle(three_units(), lambda model: 2.0, resume=tmp_path / "other.json")
    for wrong in ("{}", "[", '{"settings": 1, "points": []}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="expected a file that `oracle` wrote"):
            oracle(three_units(), (X, Y), resume=path)


@pytest.mark.parametrize("row", [[0], ["0", 1.0], [0, "much"], [0, float("nan")], [0, 1.0, 2.0], 3])
def test_resume_refuses_damaged_rows(tmp_path, row):
    path = tmp_path / "oracle.json"
    oracle(three_units(), lambda model: 1.0, resume=path)
    content = json.loads(path.read_text())
    content["points"][1] = row
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected a file that `oracle` wrote"):
        oracle(three_units(), lambda model: 1.0, resume=path)


def measured() -> Oracle:
    changes = {"a": np.array([0.5, -1.0]), "b": np.array([0.25, 0.0, -0.25])}
    return Oracle(1.0, changes, {"a": np.arange(2), "b": np.arange(2, 5)})


def test_ranks_and_importance():
    assert {name: ranks.tolist() for name, ranks in measured().ranks().items()} == {"a": [2, 1], "b": [3.5, 5, 3.5]}
    assert {name: values.tolist() for name, values in measured().importance().items()} == {
        "a": [0.5, 1.0],
        "b": [0.25, 0.0, 0.25],
    }


def test_table():
    assert str(measured()) == (
        "loss 1.0000; 5 units, one removed at a time:\n"
        "layer  units  mean |change|  smallest  largest  loss falls  mean rank  first  last\n"
        "a          2           0.75       0.5        1           1        1.5    1.0   2.0\n"
        "b          3          0.167         0     0.25           1        4.0    3.5   5.0"
    )


def test_save_and_load(tmp_path):
    path = tmp_path / "oracle.json"
    measured().save(path)
    found = Oracle.load(path)
    assert str(found) == str(measured())
    assert {name: units.tolist() for name, units in found.units.items()} == {"a": [0, 1], "b": [2, 3, 4]}
    for wrong in (
        "{",
        "[]",
        '{"loss": 1}',
        path.read_text().replace("0.5,", ""),
        path.read_text().replace("0.5", "{}"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"expected a file that Oracle\.save wrote"):
            Oracle.load(path)
    with pytest.raises(FileNotFoundError):
        Oracle.load(tmp_path / "nothing.json")


def test_figure():
    pytest.importorskip("matplotlib")
    axes = measured().figure().axes[0]
    assert axes.get_ylabel() == "rank among all units (1 = matters most)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {
        "a unit": [[0, 2], [1, 3.5], [1, 5]],
        "a unit without which the loss falls": [[0, 1], [1, 3.5]],
        "first": [[0, 1], [1, 3.5]],
        "mean": [[0, 1.5], [1, 4]],
        "last": [[0, 2], [1, 5]],
    }


def test_figure_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-prune\[plot\]"):
        measured().figure()


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
