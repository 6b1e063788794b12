"""Criteria: golden scores with ties and zeros, what they gather, names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
from keras import ops

from keras_prune import criteria
from keras_prune.allocation import Global
from keras_prune.criteria import (
    LAMP,
    OBD,
    SNIP,
    Criterion,
    Magnitude,
    Movement,
    Random,
    StandardizedMagnitude,
    Taylor,
    TaylorFO,
)
from keras_prune.masks import make_mask

WEIGHTS = np.array([[-2.0, 0.0, 1.0], [1.0, -1.0, 4.0]], np.float32)
GRADIENT = np.array([[0.5, 9.0, -1.0], [1.0, -2.0, 0.0]], np.float32)
LEAST = -np.finfo(np.float32).tiny  # what a pruned weight scores


def test_magnitude_is_the_absolute_value():
    weights = np.array([[-2.0, 0.0], [-0.0, 1.5]], np.float32)
    scores = Magnitude()(weights)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[2.0, 0.0], [0.0, 1.5]]


def test_standardized_magnitude_counts_in_deviations():
    weights = np.array([-3.0, 3.0, 3.0, -3.0, 0.0, 0.0], np.float32)  # variance 6
    scores = StandardizedMagnitude()(weights)
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([1.5**0.5] * 4 + [0, 0])
    assert StandardizedMagnitude()(weights * 100).tolist() == pytest.approx(scores.tolist())
    assert StandardizedMagnitude()(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert (StandardizedMagnitude()(np.full(3, -0.1, np.float32)) > 1e29).all()  # below no multiple of 0


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, -3.0, 2.0], [1 / 14, 1.0, 4 / 13]),
        ([2.0, -2.0, 2.0], [1.0, 1 / 2, 1 / 3]),  # ties: the first counts as the largest
        ([0.0, 2.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([[3.0, 1.0], [1.0, 0.0]], [[1.0, 1 / 10], [1 / 11, 0.0]]),
    ],
)
def test_lamp_golden(weights, expected):
    assert LAMP()(np.array(weights, np.float32)) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lamp_equals_its_definition(dtype):
    weights = np.random.default_rng(0).integers(-20, 20, 200).astype(dtype) / 8
    scores, squares = LAMP()(weights), np.square(weights.astype(np.float64))
    for i in range(200):
        larger = [j for j in range(200) if squares[j] > squares[i] or (squares[j] == squares[i] and j <= i)]
        assert scores[i] == pytest.approx(squares[i] / squares[larger].sum())


def test_lamp_with_global_allocation_leaves_a_weight_in_each_layer():
    layers = {"large": 100 * WEIGHTS, "small": 1e-3 * WEIGHTS}
    magnitudes = {name: np.abs(weights) for name, weights in layers.items()}
    assert Global()(magnitudes, 10 / 12, 0.9) == pytest.approx({"large": 4 / 6, "small": 1.0})
    scores = {name: LAMP()(weights) for name, weights in layers.items()}
    assert Global()(scores, 10 / 12, 0.9) == pytest.approx({"large": 5 / 6, "small": 5 / 6})


@pytest.mark.parametrize(
    ("criterion", "gathered", "scores"),
    [
        (Taylor(), [[1, 0, 1], [1, 2, 0]], [[1, LEAST, 1], [1, 2, 0]]),
        (TaylorFO(), [[1, 0, 1], [1, 4, 0]], [[1, LEAST, 1], [1, 4, 0]]),
        (OBD(), [[0.25, 81, 1], [1, 4, 0]], [[0.5, LEAST, 0.5], [0.5, 2, 0]]),
        (SNIP(), [[-1, 0, -1], [1, 2, 0]], [[1, LEAST, 1], [1, 2, 0]]),
        (Movement(), [[1, 0, 1], [-1, -2, 0]], [[1, 0, 1], [-1, -2, 0]]),
    ],
)
def test_golden_scores_from_gradients(criterion, gathered, scores):
    statistic = criterion.gather(ops.convert_to_tensor(WEIGHTS), ops.convert_to_tensor(GRADIENT))
    assert ops.convert_to_numpy(statistic).tolist() == gathered
    result = criterion(WEIGHTS, ops.convert_to_numpy(statistic))
    assert result.dtype == np.float32
    assert result.tolist() == scores
    assert criterion.gathers
    assert criterion.resets == (not isinstance(criterion, Movement))


@pytest.mark.parametrize("criterion", [Taylor(), TaylorFO(), OBD(), SNIP(), Movement()])
def test_gradients_are_asked_for(criterion):
    name = type(criterion).__name__
    with pytest.raises(
        ValueError, match=rf"{name}: expected gradients, got none; .*prune\(.*criterion={name}\(\), data="
    ):
        criterion(WEIGHTS)


@pytest.mark.parametrize(("criterion"), [Taylor(), TaylorFO(), OBD(), SNIP()])
def test_pruned_weights_do_not_come_back_in_place_of_dead_ones(criterion):
    weights = np.array([0.0, 0.0, 3.0, 4.0], np.float32)  # the first two are pruned
    gradient_is_zero = np.zeros(4, np.float32)  # as of inputs that are always zero
    assert make_mask(criterion(weights, gradient_is_zero), 0.5).tolist() == [0, 0, 1, 1]


def test_random_is_the_same_in_every_run_and_differs_by_path():
    weights = np.ones((2, 3), np.float32)
    golden = [[0.41119, 0.95891, 0.80256], [0.30513, 0.07156, 0.85348]]
    assert Random(7).of("dense/kernel")(weights) == pytest.approx(np.array(golden), abs=1e-5)
    assert Random(7).of("dense/kernel") == Random(7, "dense/kernel")
    other_path, other_seed = Random(7).of("dense_1/kernel")(weights), Random(8).of("dense/kernel")(weights)
    assert len({scores.tobytes() for scores in (Random(7).of("dense/kernel")(weights), other_path, other_seed)}) == 3


def test_random_keeps_pruned_weights_pruned():
    weights = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    criterion, last = Random(3).of("a"), np.ones((20, 30), np.uint8)
    for sparsity in (0.2, 0.5, 0.5, 0.8, 0.95):
        mask = make_mask(criterion(weights), sparsity)
        assert (mask <= last).all()
        weights *= mask
        last = mask
    other = make_mask(Random(4).of("b")(weights), 0.96)  # also where another criterion made the zeros
    assert (other <= last).all()


def test_gradients_of_a_quadratic():
    """C = sum of a (w - b)^2 / 2 at w = 1: OBD's h is measured, Taylor's change is w a (w - b)."""
    curvature, minimum = np.array([1.0, 4.0, 9.0], np.float32), np.array([0.5, 0.5, 2.0], np.float32)
    weights = np.ones(3, np.float32)
    gradient = curvature * (weights - minimum)
    assert Taylor()(weights, Taylor().gather(weights, gradient)).tolist() == [0.5, 2.0, 9.0]
    assert OBD()(weights, OBD().gather(weights, gradient)).tolist() == [0.125, 2.0, 40.5]
    assert Movement()(weights, Movement().gather(weights, gradient)).tolist() == [-0.5, -2.0, 9.0]  # towards b


def test_get():
    def square(weights):
        return weights**2

    assert criteria.get("magnitude") == Magnitude() == criteria.get(Magnitude) == criteria.get("Magnitude")
    assert criteria.get("taylor_fo") == TaylorFO()
    assert criteria.get("lamp") == LAMP()
    assert criteria.get("standardized_magnitude") == StandardizedMagnitude()
    assert criteria.get(square) is square
    with pytest.raises(ValueError, match=r"criterion: expected one of 'magnitude', .* or an object, got 'size'"):
        criteria.get("size")
    with pytest.raises(TypeError, match="a function weights -> scores, got 3"):
        criteria.get(3)
    with pytest.raises(ValueError, match=r"Random.seed: expected a whole number >= 0, got -1"):
        Random(-1)


@pytest.mark.parametrize("criterion", [*(cls() for cls in criteria.KNOWN), Random(5), Taylor("sum")])
def test_round_trips_every_argument(criterion):
    assert type(criterion).from_config(criterion.get_config()) == criterion
    config = keras.saving.serialize_keras_object(criterion)
    assert criteria.get({"class_name": config["class_name"], "config": config["config"]}) == criterion


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(criteria.__path__)])
def test_examples_and_papers(module):
    namespace = importlib.import_module(f"keras_prune.criteria.{module}")
    assert doctest.testmod(namespace).failed == 0
    for cls in criteria.KNOWN:
        if cls.__module__ == namespace.__name__ and cls is not Random:
            assert "http" in cls.__doc__


def test_base_says_what_to_define():
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Criterion()(np.ones(2))
    with pytest.raises(NotImplementedError, match="must define gather"):
        Criterion().gather(np.ones(2), np.ones(2))
    assert (Criterion.gathers, Criterion.resets) == (False, True)
