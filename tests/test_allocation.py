"""Allocations: golden literals and properties."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_prune import allocation
from keras_prune.allocation import (
    ERK,
    Allocation,
    Exempt,
    FromSensitivity,
    Global,
    PerLayer,
    QualityParameter,
    Uniform,
    kept_count,
    known_sparsities,
    matches,
    shapes_of,
)
from keras_prune.callbacks import PruneCallback
from keras_prune.criteria import Magnitude, StandardizedMagnitude
from keras_prune.masks import Recipe, attach, make_mask, mask_sparsity
from keras_prune.patterns import Balanced, Block, NByM
from keras_prune.schedules import PolynomialDecay

SCORES = {"a/kernel": np.array([[4.0, 1.0], [2.0, 2.0]]), "b/kernel": np.array([2.0, 3.0, 2.0, 0.0])}


def test_uniform():
    assert Uniform()(SCORES, 0.3, 0.8) == {"a/kernel": 0.3, "b/kernel": 0.3}


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.0, (0.0, 0.0)),
        (0.5, (0.25, 0.75)),  # 4, then 3, then the first two of four 2s: both in a
        (0.25, (0.25, 0.25)),  # 6 kept: all 2s
        (0.75, (0.75, 0.75)),
        (0.875, (0.75, 1.0)),
    ],
)
def test_global_golden(sparsity, expected):
    result = Global()(SCORES, sparsity, 0.9)
    assert (result["a/kernel"], result["b/kernel"]) == expected
    kept = sum(kept_count(4, s) for s in result.values())
    assert kept == kept_count(8, sparsity)


def test_per_layer_scales_with_the_schedule():
    allocate = PerLayer({"a": 0.9, "b/kernel": 0.5})
    assert allocate(SCORES, 0.0, 0.8) == {"a/kernel": 0.0, "b/kernel": 0.0}
    assert allocate(SCORES, 0.4, 0.8) == pytest.approx({"a/kernel": 0.45, "b/kernel": 0.25})
    assert allocate(SCORES, 0.8, 0.8) == {"a/kernel": 0.9, "b/kernel": 0.5}
    assert PerLayer({"a": 0.9})(SCORES, 0.4, 0.8) == pytest.approx({"a/kernel": 0.45, "b/kernel": 0.4})
    assert PerLayer({"a": 0.0, ".*": 0.6})(SCORES, 0.8, 0.8) == {"a/kernel": 0.0, "b/kernel": 0.6}  # first match
    assert PerLayer({"a": 0.9})(SCORES, 0.0, 0.0) == {"a/kernel": 0.9, "b/kernel": 0.0}


def test_per_layer_errors():
    with pytest.raises(
        ValueError, match=r"PerLayer: expected names.*got 'c', 'x\.\*'; this model has: a/kernel, b/kernel"
    ):
        PerLayer({"a": 0.5, "c": 0.5, "x.*": 0.1})(SCORES, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"PerLayer\['a'\]: expected a sparsity.*got 1\.2"):
        PerLayer({"a": 1.2})
    with pytest.raises(ValueError, match=r"a layer name or a regular expression, got '\('"):
        PerLayer({"(": 0.2})(SCORES, 0.5, 0.5)


@pytest.mark.parametrize(
    ("key", "path", "expected"),
    [
        ("dense", "dense/kernel", True),
        ("dense", "dense_1/kernel", False),
        ("dense/kernel", "net/dense/kernel", True),
        ("net/dense", "net/dense/kernel", True),
        ("ense", "dense/kernel", False),
        ("dense.*", "dense_1/kernel", True),
        ("conv[12]", "net/conv2/kernel", True),
        (".*recurrent_kernel", "lstm/lstm_cell/recurrent_kernel", True),
        ("a+b", "a+b/kernel", True),  # a name first, then a regular expression
    ],
)
def test_matches(key, path, expected):
    assert matches(key, path) is expected


LENET = {"fc1/kernel": (784, 300), "fc2/kernel": (300, 100), "fc3/kernel": (100, 10)}


class Shapes(dict):
    """Scores that may be asked for their shapes only."""

    def __init__(self, shapes):
        super().__init__(dict.fromkeys(shapes))
        self.shapes = shapes

    def __getitem__(self, path):
        raise AssertionError(f"scores of {path} are not needed")


def test_erk_golden():
    # epsilon (784 + 300), epsilon (300 + 100) and epsilon (100 + 10) of 26620 kept, before the last layer is full.
    result = ERK()(Shapes(LENET), 0.9, 0.9)
    kept = {path: round(784 * 300 * (1 - s)) if "fc1" in path else 1 - s for path, s in result.items()}
    assert result["fc3/kernel"] == 0.0
    assert kept["fc1/kernel"] == round(25620 * 1084 / 1484)
    assert kept["fc2/kernel"] == pytest.approx(25620 * 400 / 1484 / 30000, abs=1e-4)
    assert ERK()(Shapes(LENET), 0.0, 0.9) == dict.fromkeys(LENET, 0.0)


def test_erk_counts_the_kernels_height_and_width():
    shapes = {"conv/kernel": (3, 3, 64, 128), "dense/kernel": (512, 512)}
    result = ERK()(Shapes(shapes), 0.9, 0.9)
    kept = [np.prod(shapes[path]) * (1 - s) for path, s in result.items()]
    assert kept[0] / kept[1] == pytest.approx((3 + 3 + 64 + 128) / (512 + 512), rel=1e-3)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6),
    st.floats(0, 0.95),
)
def test_erk_keeps_the_exact_total(shapes, sparsity):
    shapes = {str(number): shape for number, shape in enumerate(shapes)}
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    result = ERK()(Shapes(shapes), sparsity, 0.95)
    kept = sum(kept_count(sizes[path], s) for path, s in result.items())
    total = kept_count(sum(sizes.values()), sparsity)
    assert total <= kept <= max(total, total + len(shapes) - 1)  # more only where layers would lose their last weight
    if total >= 4 * len(shapes) * max(sum(s) for s in shapes.values()):
        assert kept == total


def test_quality_parameter_prunes_below_q_deviations():
    weights = np.random.default_rng(0).normal(0.02, 0.3, (40, 50)).astype(np.float32)
    scores = {"a/kernel": StandardizedMagnitude()(weights)}
    for quality in (0.0, 0.5, 1.0, 2.0):
        result = QualityParameter(quality)(scores, 0.8, 0.8)["a/kernel"]
        mask = make_mask(scores["a/kernel"], result)
        assert np.array_equal(mask, np.abs(weights) >= quality * weights.std())
        assert QualityParameter(quality)(scores, 0.2, 0.8)["a/kernel"] == pytest.approx(result / 4)
    assert QualityParameter(1e6)(scores, 0.8, 0.8)["a/kernel"] == 1 - 1 / 2000  # one is kept


@pytest.mark.parametrize("value", [0.0, 0.5, -0.1])
def test_quality_parameter_of_weights_without_deviation(value):
    scores = {"a/kernel": StandardizedMagnitude()(np.full((3, 4), value, np.float32))}
    assert QualityParameter(3.0)(scores, 0.8, 0.8) == {"a/kernel": 0.0}  # |w| < 3 * 0 nowhere


def test_quality_parameter_by_layer():
    scores = {"a/kernel": np.array([0.1, 1.0, 2.0, 3.0]), "b/kernel": np.array([0.1, 1.0, 2.0, 3.0])}
    assert QualityParameter({"a": 1.5, ".*": 0})(scores, 0.5, 0.5) == {"a/kernel": 0.5, "b/kernel": 0.0}
    with pytest.raises(ValueError, match=r"expected a q for each layer that is pruned, got none for b/kernel"):
        QualityParameter({"a": 1.5})(scores, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"QualityParameter: expected names.*got 'c'"):
        QualityParameter({"c": 1.5})(scores, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"QualityParameter: expected a number of standard deviations >= 0, got -1"):
        QualityParameter(-1)
    with pytest.raises(ValueError, match=r"QualityParameter\['a'\]: expected a number.*got nan"):
        QualityParameter({"a": float("nan")})


def test_quality_parameter_asks_for_its_criterion():
    Recipe(StandardizedMagnitude(), allocation=QualityParameter(1.0))
    Recipe(np.abs, allocation=QualityParameter(1.0))
    for allocate in (QualityParameter(1.0), Exempt(QualityParameter(1.0))):
        with pytest.raises(ValueError, match=r"criterion='standardized_magnitude'.*got criterion=Magnitude\(\)"):
            Recipe(Magnitude(), allocation=allocate)


def test_global_standardized_magnitude_is_one_quality_for_all_layers():
    rng = np.random.default_rng(0)
    layers = {"a": rng.normal(0, 1, 400), "b": rng.normal(0, 0.01, 300)}
    scores = {name: StandardizedMagnitude()(weights) for name, weights in layers.items()}
    result = Global()(scores, 0.6, 0.6)
    masks = {name: make_mask(scores[name], result[name]).astype(bool) for name in layers}
    quality = min(scores[name][masks[name]].min() for name in layers)
    assert QualityParameter(quality)(scores, 0.6, 0.6) == pytest.approx(result)


THREE = {"a/kernel": np.ones((2, 2)), "a/recurrent_kernel": np.ones((2, 2)), "b/kernel": np.ones((4, 8))} | {
    "c/kernel": np.ones((2, 5))
}


def test_exempt():
    assert list(Exempt()(THREE, 0.5, 0.8).values()) == [0.0, 0.0, 0.5, 0.0]
    assert list(Exempt(first=False)(THREE, 0.5, 0.8).values()) == [0.5, 0.5, 0.5, 0.0]
    assert list(Exempt({"b": 0.6}, last=False)(THREE, 0.8, 0.8).values()) == [0.0, 0.0, 0.6, 0.8]
    assert list(Exempt(first=False, last=False, layers="b")(THREE, 0.5, 0.8).values()) == [0.5, 0.5, 0.0, 0.5]
    assert list(Exempt("global")(THREE, 0.5, 0.8).values()) == [0.0, 0.0, 0.5, 0.0]


def test_exempt_compensates():
    result = Exempt(compensate=True)(THREE, 0.4, 0.5)
    assert result["b/kernel"] == pytest.approx(0.4 * 50 / 32)
    with pytest.raises(ValueError, match=r"a final sparsity below 0\.6400, the share of the layers.*got 0\.7"):
        Exempt(compensate=True)(THREE, 0.1, 0.7)
    with pytest.raises(ValueError, match="Exempt: expected a layer that is pruned, got all exempt"):
        Exempt(layers=".*")(THREE, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"Exempt: expected names.*got 'd'"):
        Exempt(layers="d")(THREE, 0.5, 0.5)
    with pytest.raises(TypeError, match=r"Exempt.allocation: expected an allocation or its name, got 3"):
        Exempt(3)


def test_global_compares_units_not_weights():
    strong, weak = np.array([[9.0, 0.0], [0.0, 0.0]], np.float32), np.array([[3.0, 3.0], [3.0, 3.0]], np.float32)
    layers = {name: keras.Variable(values, name=name) for name, values in (("a", strong), ("b", weak))}
    attach(layers)
    Recipe(pattern=Block((2, 2)), allocation=Global()).update(layers, 0.5)
    assert layers["a"].constraint.mask.numpy().tolist() == [[0, 0], [0, 0]]  # its mean is 2.25
    assert layers["b"].constraint.mask.numpy().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("pattern", [NByM(2, 4), Balanced(8)])
def test_global_with_patterns_of_exact_counts(pattern):
    rng = np.random.default_rng(0)
    layers = {name: keras.Variable(rng.normal(0, sd, (16, 8)), name=name) for name, sd in (("a", 1.0), ("b", 0.5))}
    attach(layers)
    Recipe(pattern=pattern, allocation=Global()).update(layers, 0.25)
    assert mask_sparsity(layers) == pytest.approx(0.25, abs=0.05)
    Recipe(pattern=NByM(2, 4), allocation=Global()).update(layers, 0.5)
    assert mask_sparsity(layers) == 0.5


def test_global_keeps_what_a_pattern_must_keep():
    """Of a row of 5 inputs 2:4 keeps 3, of 9 it keeps 5: more than half of the weights together."""
    rng = np.random.default_rng(0)
    layers = {name: keras.Variable(rng.normal(size=(rows, 4)), name=name) for name, rows in (("a", 5), ("b", 9))}
    attach(layers)
    Recipe(pattern=NByM(2, 4), allocation=Global()).update(layers, 0.5)
    assert [variable.constraint.mask.numpy().sum(axis=0).tolist() for variable in layers.values()] == [[3] * 4, [5] * 4]
    assert Global()({"a": np.array([np.inf, 1.0, np.inf]), "b": np.array([2.0])}, 0.75, 0.75) == pytest.approx(
        {"a": 1 / 3, "b": 1.0}
    )


@pytest.mark.parametrize(
    "allocate", [Uniform(), ERK(), PerLayer({"fc1": 0.5}), Exempt(), FromSensitivity({"fc1": [(0, 1), (0.9, 1)]})]
)
def test_what_shapes_tell_before_training(allocate):
    assert known_sparsities(allocate, LENET, 0.8) == allocate(Shapes(LENET), 0.8, 0.8)


def test_what_shapes_do_not_tell():
    assert known_sparsities(Global(), LENET, 0.8) == {}
    assert known_sparsities(Exempt("global"), LENET, 0.8) == {}
    assert known_sparsities(QualityParameter(1.0), LENET, 0.8) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": NByM(2, 4), "allocation": "erk"}, r"NByM.*expected a sparsity up to 0\.5, got 0\.55"),
        ({"pattern": Balanced(2), "allocation": {"b": 0.7}}, r"Balanced.*expected a sparsity up to 0\.5, got 0\.7"),
        (
            {"allocation": FromSensitivity({"a": [(0, 1), (0.3, 1)]})},
            r"a sparsity up to 0\.3000, what the scan reaches",
        ),
        ({"allocation": {"c": 0.5}}, r"PerLayer: expected names.*got 'c'"),
    ],
)
def test_what_cannot_be_reached_is_said_before_training(options, message):
    layers = [keras.layers.Dense(40, name="a"), keras.layers.Dense(4, name="b")]
    model = keras.Sequential([keras.Input((40,)), *layers])
    model.compile("sgd", "mse")
    batches = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
    callback = PruneCallback(PolynomialDecay(0.0, 0.5, begin_step=2, end_step=8, frequency=1), **options)
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((8, 40)), np.ones((8, 4)), batch_size=1, verbose=0, callbacks=[callback, watch])
    assert not batches


def test_shapes_are_known_without_scores():
    assert shapes_of(SCORES) == {path: np.shape(scores) for path, scores in SCORES.items()}
    assert shapes_of(Shapes(LENET)) == LENET


SCAN = {"a": [(0.0, 0.95), (0.5, 0.95), (0.9, 0.85)], "b": [(0.0, 0.95), (0.5, 0.75), (0.9, 0.15)]}


@pytest.mark.parametrize(
    "allocate",
    [
        *(Uniform(), Global(), ERK(), PerLayer({"a": 0.5}), Exempt({"a": 0.3}), Exempt(FromSensitivity(SCAN))),
        *(QualityParameter(0.7), QualityParameter({"a": 0.7, ".*": 0}), FromSensitivity(SCAN, 0.1)),
        FromSensitivity({"a": [(0.5, 0.9)]}, baseline=0.95),
        Exempt("erk", first=False, layers=["a"], compensate=True),
    ],
)
def test_round_trips_every_argument(allocate):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(allocate)))
    assert allocation.get({"class_name": config["class_name"], "config": config["config"]}) == allocate
    assert type(allocate).from_config(allocate.get_config()) == allocate


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(allocation.__path__)])
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"keras_prune.allocation.{module}")).failed == 0


def test_get():
    assert allocation.get("uniform") == Uniform()
    assert allocation.get("global") == Global() == allocation.get(Global)
    assert allocation.get({"dense": 0.5}) == PerLayer({"dense": 0.5})
    assert allocation.get({"class_name": "PerLayer", "config": PerLayer({"a": 0.5}).get_config()}) == PerLayer(
        {"a": 0.5}
    )
    with pytest.raises(ValueError, match="allocation: expected one of 'uniform', 'global', 'per_layer'"):
        allocation.get("fair")
    with pytest.raises(TypeError, match="allocation: expected a keras_prune allocation"):
        allocation.get(3)
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Allocation()(SCORES, 0.5, 0.5)
