"""Scores that count costs, and measured tables of them."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from unit_pruning_models import fit, residual, zero_channels  # type: ignore[import-not-found]

import keras_prune as kp
from keras_prune.graph import dependencies
from keras_prune.layer_costs.units import unit_costs
from keras_prune.masks import Recipe
from keras_prune.unit_pruning import UnitPruning

pytestmark = pytest.mark.usefixtures("seeded")


def scores(criterion, model=None):
    model = residual() if model is None else model
    pruning = UnitPruning(model, Recipe(criterion, kp.Channel()))
    found = pruning.scores(lambda path: None)
    return {name: found[name] for name in found}


@pytest.mark.parametrize("cost", ["flops", "macs", "parameters", "bytes", "activations", "memory", "bandwidth"])
def test_the_score_less_lambda_times_the_share(cost):
    model = residual()
    plain, priced = scores(kp.Magnitude(), model), scores(kp.Regularized("magnitude", cost, 2.0), model)
    found = dependencies(model)
    saved, dense = unit_costs(model, found)[cost], kp.costs(model).total
    total = {
        "flops": dense.flops,
        "macs": dense.macs,
        "parameters": dense.parameters,
        "bytes": dense.parameter_bytes,
        "activations": dense.activations,
        "memory": dense.parameter_bytes + dense.activation_bytes,
        "bandwidth": dense.bandwidth,
    }[cost]
    for group in found.free:
        expected = plain[group.name] - 2.0 * saved[group.units] / total
        np.testing.assert_allclose(priced[group.name], expected, rtol=1e-5)
        assert np.linalg.norm(plain[group.name]) == pytest.approx(1, abs=1e-6)


def test_the_dearer_units_go_first():
    model = residual()
    for name in ("a", "b", "c"):
        model.get_layer(name).kernel.assign(np.ones(model.get_layer(name).kernel.shape))
    criterion = kp.Regularized("magnitude", "flops", 100.0)
    kp.prune(model, 2 / 14, criterion=criterion, pattern=kp.Channel(), allocation="global")
    # a unit of a + b has two kernels' outputs and c's inputs, one of c its outputs and the head's inputs
    assert zero_channels(model, "a").sum() == 2


def test_a_cost_that_cannot_count_is_warned_of(caplog):
    kp.prune(residual(), 0.5, criterion=kp.Regularized("magnitude"), pattern=kp.Channel())
    assert "allocation='uniform' prunes the same share of each" in caplog.text


TABLE = kp.LatencyTable({"a+b": {2: 1.0, 4: 1.0, 8: 3.0}, "c": {3: 2.0, 6: 3.5}}, total=5.0, device="a phone")


def test_a_table_gives_the_slope_at_the_present_number_of_channels():
    slopes = [TABLE.seconds_per_channel("a+b", count) for count in (1, 2, 3, 4, 5, 8, 9)]
    assert slopes == [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    model = residual()
    plain, priced = scores(kp.Magnitude(), model), scores(kp.Regularized("magnitude", TABLE, 2.0), model)
    np.testing.assert_allclose(plain["a+b"] - priced["a+b"], 2.0 * 0.5 / 5.0, atol=1e-6)
    np.testing.assert_allclose(plain["c"] - priced["c"], 2.0 * 0.5 / 5.0, atol=1e-6)
    kp.prune(model, 0.5, pattern=kp.Channel())  # 4 of 8 are left: fewer would be no faster
    priced = scores(kp.Regularized("magnitude", TABLE, 2.0), model)["a+b"]
    assert priced[np.isfinite(priced)].min() > 0


def test_a_table_by_layers_counts_those_of_a_group_together():
    table = kp.LatencyTable({"a": {4: 1.0, 8: 2.0}, "b": {4: 1.0, 8: 3.0}, "c": {1: 0.0, 6: 0.0}}, total=1.0)
    model = residual()
    plain, priced = scores(kp.Magnitude(), model), scores(kp.Regularized("magnitude", table, 1.0), model)
    np.testing.assert_allclose(plain["a+b"] - priced["a+b"], 0.75, atol=1e-6)
    np.testing.assert_array_equal(plain["c"], priced["c"])


def test_in_training_with_greedy():
    greedy = kp.Greedy(1, frequency=2, target=kp.Target("flops", 0.7))
    criterion = kp.Regularized("taylor", "flops", 1.0)
    history = fit(residual(), kp.PruneCallback(greedy, criterion, pattern=kp.Channel())).history
    assert history["flops"][-1] <= 0.7


def test_measuring_a_table():
    model = residual()
    before = model.get_weights()
    sizes = []

    def measure(small):
        sizes.append([small.get_layer(name).filters for name in ("a", "b", "c")])
        return small.count_params() / 1e4

    table = kp.measure_latency_table(model, fractions=(0.5,), measure_model=measure)
    assert sizes == [[8, 8, 6], [4, 4, 6], [8, 8, 3]]
    assert {name: list(points) for name, points in table.layers.items()} == {"a+b": [4, 8], "c": [3, 6]}
    assert table.total == model.count_params() / 1e4
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="fractions: expected numbers above 0"):
        kp.measure_latency_table(model, fractions=(1.0,))


def test_measuring_groups_under_a_normalization():
    layers = [keras.layers.LayerNormalization(), keras.layers.Flatten(), keras.layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(8, 1, name="a"), *layers])
    measure = {"fractions": (0.5,), "measure_model": lambda small: float(small.count_params())}
    table = kp.measure_latency_table(model, **measure, exact=False)
    assert {name: list(points) for name, points in table.layers.items()} == {"a": [4, 8]}


# Files and configurations.


def test_files_come_back(tmp_path):
    path = tmp_path / "table.json"
    TABLE.save(path)
    assert kp.LatencyTable.load(path) == TABLE
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text[:-9], "expected a latency table in JSON"),
        (lambda text: "[" * 100_000, "expected a latency table in JSON"),
        (lambda text: "[]", 'expected {"format": "keras_prune latency table"'),
        (lambda text: text.replace('"version": 1', '"version": 2'), '"version": 1'),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "total"}), r"got none named"),
        (lambda text: text.replace("3.5", "NaN"), "expected seconds, a finite number"),
        (lambda text: text.replace("3.5", "-1"), "expected seconds, a finite number"),
        (lambda text: text.replace("3.5", "true"), "expected seconds, a finite number"),
        (lambda text: text.replace('"total": 5.0', '"total": 0'), "expected seconds, a finite number"),
        (lambda text: text.replace('"6"', '"6.5"'), "expected whole numbers of channels"),
        (lambda text: text.replace('"6"', '"-6"'), "expected whole numbers of channels"),
        (lambda text: text.replace('"6"', '"03"'), "expected each number of channels once"),
        (lambda text: text.replace('"6": 3.5', '"3": 3.5'), "expected seconds at two numbers"),
        (lambda text: json.dumps({**json.loads(text), "layers": {}}), "expected {layer: {channels: seconds}}"),
        (lambda text: json.dumps({**json.loads(text), "layers": {"a": [1, 2]}}), "expected seconds at two numbers"),
        (lambda text: json.dumps({**json.loads(text), "device": 3}), "expected text"),
        (lambda text: " " * (1 << 24) + text, "expected a latency table of at most"),
    ],
)
def test_hostile_files(tmp_path, change, error):
    path = tmp_path / "table.json"
    TABLE.save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=error):
        kp.LatencyTable.load(path)


@pytest.mark.parametrize("cost", ["memory", TABLE])
def test_configurations(cost):
    value = kp.Regularized(kp.Random(3), cost, 0.5)
    assert kp.Regularized.from_config(value.get_config()) == value
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(value)) == value
    json.dumps(value.get_config())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: kp.Regularized("magnitude", "weight"), "expected one of 'macs', 'flops'"),
        (lambda: kp.Regularized("magnitude", "flops", -1), "Regularized.strength"),
        (lambda: kp.Regularized("nothing"), "criterion: expected one of"),
        (lambda: kp.prune(residual(), 0.5, criterion=kp.Regularized("magnitude")), r"expected pattern=Channel\(\)"),
        (
            lambda: scores(kp.Regularized("magnitude", kp.LatencyTable({"c": {1: 0.0, 2: 1.0}}, 1.0))),
            r"expected seconds for 'a\+b' or one of its layers, got those of c",
        ),
    ],
)
def test_wrong_values(make, error):
    with pytest.raises((TypeError, ValueError), match=error):
        make()
