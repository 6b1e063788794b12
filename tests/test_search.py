"""The sparsest model that is good enough: bisection against measures whose answer is known."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune import find_quality, find_sparsity


def model_of(units: int = 10, inputs: int = 20) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(units, "relu", name="first"), keras.layers.Dense(2, name="second")]
    model = keras.Sequential([keras.Input((inputs,)), *layers])
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"]
    )
    return model


def zeros(model: keras.Model, *names: str) -> float:
    values = [layer.kernel.numpy() for layer in model.layers if not names or layer.name in names]
    return 1 - sum(map(np.count_nonzero, values)) / sum(value.size for value in values)


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(256, 20)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.int32)


def test_bisection_ends_below_the_limit():
    found = find_sparsity(
        model := model_of(),
        lambda model: 0.9 if zeros(model) <= 0.7 else 0.8,
        fit=lambda model: None,
        accuracy_drop=0.05,
        tolerance=0.02,
    )
    assert 0.67 <= found.sparsity <= 0.7
    assert found.sparsity == pytest.approx(zeros(model))
    assert (found.baseline, found.accuracy) == (0.9, 0.9)
    assert [trial.value for trial in found.trials] == [0.5, 0.75, 0.625, 0.6875, 0.71875, 0.703125]
    assert [trial.accepted for trial in found.trials] == [True, False, True, True, False, False]
    lines = str(found).splitlines()
    assert lines[0].split() == ["trial", "layer", "value", "sparsity", "accuracy"]
    assert lines[1].split() == ["1", "0.5000", "50.00%", "0.9000", "accepted"]


def test_an_accuracy_at_the_limit_is_accepted_whatever_its_rounding():
    scores = iter([1.0, *[float(np.float32(0.9))] * 20])  # 0.89999998
    found = find_sparsity(model_of(), lambda _: next(scores), fit=lambda _: None, accuracy_drop=0.1, tolerance=0.3)
    assert all(trial.accepted for trial in found.trials)


def test_refused_trials_leave_nothing_behind():
    model = model_of()
    x, y = data()
    model.fit(x, y, epochs=1, verbose=0)
    before = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    scores = iter([1.0, *[0.0] * 20])
    found = find_sparsity(model, lambda _: next(scores), fit={"x": x, "y": y}, tolerance=0.2)
    assert found.sparsity == 0.0
    assert not any(trial.accepted for trial in found.trials)
    for now, then in zip([*model.variables, *model.optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(now.numpy(), then)
    model.fit(x, y, epochs=1, verbose=0)
    assert zeros(model) == 0.0  # no mask of a refused trial is left


def test_an_error_in_training_leaves_the_model_as_it_was():
    model = model_of()
    before = model.get_weights()

    def fit(model):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        find_sparsity(model, lambda _: 1.0, fit=fit)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_best_accepted_state_holds_its_zeros_in_further_training():
    model = model_of()
    x, y = data()
    model.fit(x, y, epochs=5, verbose=0)
    found = find_sparsity(model, (x, y), fit={"x": x, "y": y, "epochs": 2}, accuracy_drop=0.05, tolerance=0.1)
    assert found.sparsity >= 0.5  # two of twenty inputs matter
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] == pytest.approx(found.accuracy)
    assert found.accuracy >= found.baseline - 0.05
    model.fit(x, y, verbose=0)
    assert zeros(model) == pytest.approx(found.sparsity)


def test_training_that_moves_pruned_weights():
    model = model_of()

    def fit(model):
        for layer in model.layers:
            layer.kernel.assign(layer.kernel + 1)

    found = find_sparsity(model, zeros, fit=fit, accuracy_drop=0.0, tolerance=0.3)
    assert [(trial.sparsity, trial.accuracy) for trial in found.trials] == [(0.5, 0.5), (0.75, 0.75)]
    assert isinstance(found.sparsity, float)
    assert "np." not in repr(found)


def test_same_seed_same_result():
    def run(seed):
        model = model_of()
        x, y = data()
        fit = {"x": x, "y": y}
        options = {"layers": "first"}
        result = find_sparsity(model, (x, y), fit=fit, accuracy_drop=0.1, tolerance=0.3, options=options, seed=seed)
        return result, model.get_weights()

    (first, weights), (second, again), (_, other) = run(1), run(1), run(2)
    assert first == second
    assert all(map(np.array_equal, weights, again))
    assert not all(map(np.array_equal, weights, other))
    assert len(first.trials) == 2


def test_options_reach_prune():
    model = model_of()
    find_sparsity(model, lambda _: 1.0, fit=lambda _: None, tolerance=0.3, options={"layers": "first"})
    assert zeros(model, "first") == 0.75
    assert zeros(model, "second") == 0.0


def test_the_search_begins_at_the_zeros_that_are_there():
    model = keras_prune.prune(model_of(), 0.8)
    found = find_sparsity(model, lambda _: 1.0, fit=lambda _: None, tolerance=0.15)
    assert [round(trial.value, 6) for trial in found.trials] == [0.9]


def test_quality_is_a_multiple_of_the_standard_deviation():
    model = model_of(100, 50)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(rng.normal(size=layer.kernel.shape))

    def measure(model):
        return 1.0 if zeros(model, "first") <= 0.6827 and zeros(model, "second") <= 0.9545 else 0.0

    found = find_quality(model, measure, fit=lambda _: None, accuracy_drop=0.5, tolerance=0.02)
    # 68.27 % of normal weights lie within one standard deviation, 95.45 % within two: of 5 000 and 200 samples.
    assert found.qualities == {
        "first/kernel": pytest.approx(1.0, abs=0.04),
        "second/kernel": pytest.approx(2.0, abs=0.3),
    }
    assert list(found.qualities) == ["first/kernel", "second/kernel"]  # the largest first
    assert 0.65 <= zeros(model, "first") <= 0.6827
    assert {trial.layer for trial in found.trials} == {"first/kernel", "second/kernel"}
    assert found.sparsity == pytest.approx(zeros(model))


def test_quality_prunes_as_the_allocation_of_this_name_does():
    """Han's threshold is q times the standard deviation of the layer's weights, here and in `QualityParameter`."""
    model = model_of(60, 50)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(rng.normal(0.1, 1.0, size=layer.kernel.shape))
    keras_prune.prune(model, 0.6)  # its zeros count in the deviation
    weights = [layer.kernel.numpy() for layer in model.layers]
    limits = {"first": 0.8, "second": 0.9}

    def measure(model):
        return float(all(zeros(model, name) <= limit for name, limit in limits.items()))

    found = find_quality(model, measure, fit=lambda _: None, accuracy_drop=0.5, tolerance=0.02)
    masks = [layer.kernel.numpy() != 0 for layer in model.layers]
    assert all(0.6 < 1 - mask.mean() <= limit for mask, limit in zip(masks, limits.values(), strict=True))
    for layer, before in zip(model.layers, weights, strict=True):
        layer.kernel.assign(before)
    allocation = keras_prune.QualityParameter(found.qualities)
    keras_prune.prune(model, 0.5, criterion="standardized_magnitude", allocation=allocation)
    for path, layer, mask, before in zip(found.qualities, model.layers, masks, weights, strict=True):
        np.testing.assert_array_equal(layer.kernel.numpy() != 0, mask)
        np.testing.assert_array_equal(np.abs(before) >= found.qualities[path] * before.std(), mask)


def test_a_layer_of_zeros_is_not_pruned():
    model = model_of()
    model.get_layer("second").kernel.assign(np.zeros((10, 2)))
    find_quality(model, lambda _: 1.0, fit=lambda _: None, tolerance=2)
    assert zeros(model, "first") > 0.9
    model.get_layer("second").kernel.assign(np.ones((10, 2)))
    x, y = data()
    model.fit(x, y, verbose=0)
    assert zeros(model, "second") == 0.0


@pytest.mark.parametrize(("limit", "expected"), [(1.0, [0.5]), (0.4, [0.5, 0.25, 0.375, 0.4375])])
def test_a_pattern_that_can_have_no_more(limit, expected):
    model = model_of()

    def measure(model):
        return float(zeros(model) <= limit)

    options = {"pattern": keras_prune.NByM(2, 4)}
    found = find_sparsity(model, measure, fit=lambda _: None, tolerance=0.1, options=options)
    assert [trial.value for trial in found.trials] == expected
    assert found.sparsity == pytest.approx(max(value for value in expected if value <= limit), abs=0.01)


def test_layers_share_the_drop():
    model = model_of(100, 50)

    def measure(model):
        return 1.0 - 0.1 * zeros(model, "first") - 0.1 * zeros(model, "second")

    found = find_quality(model, measure, fit=lambda _: None, accuracy_drop=0.1, tolerance=0.05)
    assert zeros(model, "first") == pytest.approx(0.5, abs=0.05)
    assert zeros(model, "second") == pytest.approx(0.5, abs=0.05)
    assert found.accuracy >= 0.9


def test_quality_with_training_keeps_the_other_layers_masks():
    model = model_of()
    x, y = data()
    model.fit(x, y, epochs=5, verbose=0)
    found = find_quality(model, (x, y), fit={"x": x, "y": y}, accuracy_drop=0.1, tolerance=0.5)
    assert found.accuracy >= found.baseline - 0.1
    for trial in found.trials:
        assert 0 <= trial.value <= 4
    assert zeros(model, "first") > 0.3


def test_wrong_arguments():
    model, fit = model_of(), {"x": data()[0], "y": data()[1]}
    for wrong in ({"accuracy_drop": -0.1}, {"tolerance": 0}, {"tolerance": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            find_sparsity(model, data(), fit=fit, **wrong)
    with pytest.raises(TypeError, match="fit: expected a dict"):
        find_sparsity(model, data(), fit=3)
    with pytest.raises(ValueError, match="expected only 'layers'"):
        find_quality(model, data(), fit=fit, options={"criterion": "magnitude"})
    with pytest.raises(ValueError, match="tolerance"):
        find_quality(model, data(), fit=fit, tolerance=0)
    with pytest.raises(ValueError, match="compiled"):
        find_sparsity(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]), lambda _: 1.0, fit=fit)
