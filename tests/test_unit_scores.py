"""Scores of units: golden values, members, pooling, what is pruned, normalisation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from unit_models import group, part, site  # type: ignore[import-not-found]

from keras_prune.criteria import (
    LAMP,
    OBD,
    SNIP,
    ActivationMean,
    BatchNormScale,
    GeometricMedian,
    Magnitude,
    Movement,
    Random,
    StandardizedMagnitude,
    Taylor,
    WeightNorm,
)
from keras_prune.unit_gates import positions
from keras_prune.unit_scores import normalized, unit_scores

FIRST = np.array([[3.0, 0.0, -1.0], [-1.0, 0.0, 4.0]], np.float32)  # two inputs, three units
SECOND = np.array([[2.0, 1.0], [0.0, 0.0], [-4.0, 1.0]], np.float32)  # three units, two inputs


class Given:
    """Stands for statistics, with given numbers."""

    def __init__(self, of_sites, of_group=None):
        self._of_sites, self._of_group = of_sites, of_group

    def statistic(self, site):
        return self._of_sites[site.path]

    def gates(self, group):
        return self._of_group


def variable(value, name="kernel"):
    return keras.Variable(np.array(value, np.float32), name=name)


def one():
    return group([part(variable(FIRST))])


def two():
    """Two kernels make the same units, the second along its first axis."""
    return group([part(variable(FIRST, "first")), part(variable(SECOND, "second"), 0)])


def test_weights_are_pooled():
    expected = {"mean": [2.0, -np.inf, 2.5], "sum": [4.0, -np.inf, 5.0], "max": [3.0, -np.inf, 4.0]}
    for pooling, scores in expected.items():
        found = unit_scores(one(), Magnitude(), pooling=pooling)
        assert found.dtype == np.float32
        assert found.tolist() == scores
    assert unit_scores(one(), Magnitude()).tolist() == expected["mean"]
    assert unit_scores(one(), WeightNorm()).tolist() == [5.0, -np.inf, 8.5]


def test_weights_of_all_members_are_pooled():
    expected = {"mean": [7 / 4, -np.inf, 10 / 4], "sum": [7.0, -np.inf, 10.0], "max": [3.0, -np.inf, 4.0]}
    for pooling, scores in expected.items():
        assert unit_scores(two(), Magnitude(), pooling=pooling).tolist() == scores


def test_a_unit_with_several_indices_and_others_that_belong_to_nobody():
    kernel = np.arange(1, 11, dtype=np.float32).reshape(2, 5)
    heads = group([part(variable(kernel), 1, [9, 4, -1, 4, 9])])
    assert heads.units.tolist() == [4, 9]
    assert unit_scores(heads, Magnitude(), pooling="sum").tolist() == [2 + 7 + 4 + 9, 1 + 6 + 5 + 10]
    assert unit_scores(heads, Magnitude()).tolist() == [22 / 4, 22 / 4]


def test_only_the_groups_own_units_are_scored():
    """A split gives the channels of one kernel to two groups."""
    kernel = variable([[1.0, 2.0, 3.0, 4.0]])
    whole = part(kernel, -1, [0, 1, 2, 3])
    half = group([whole])
    half = type(half)("half", np.array([3, 2]), half.kernels, (), (), 1, None)
    assert unit_scores(half, Magnitude()).tolist() == [4.0, 3.0]


def test_functions_and_criteria_of_weights():
    assert unit_scores(one(), np.abs).tolist() == [2.0, 0.0, 2.5]  # a function decides on zeros itself
    for criterion in (LAMP(), StandardizedMagnitude()):
        wanted = criterion(FIRST).mean(axis=0)
        assert unit_scores(one(), criterion)[[0, 2]] == pytest.approx(wanted[[0, 2]], rel=1e-6)


def test_criteria_that_gather_gradients_of_weights():
    statistic = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    asked = []

    def gathered(path):
        asked.append(path)
        return statistic

    found = unit_scores(one(), OBD(), gradients_statistic=gathered, pooling="sum")
    assert asked == ["kernel"]
    assert found.tolist() == [(9 + 4) / 2, -np.inf, (3 + 96) / 2]
    assert unit_scores(one(), SNIP(), gradients_statistic=gathered).tolist() == [2.5, -np.inf, 4.5]
    assert unit_scores(one(), Movement(), gradients_statistic=gathered).tolist() == [2.5, 3.5, 4.5]  # may come back
    with pytest.raises(ValueError, match="SNIP: expected gradients, got none"):
        unit_scores(one(), SNIP())


def test_geometric_median_is_that_of_the_whole_unit():
    """All weights that make a unit count, whatever the kernel; units that are zero are nobody's neighbours."""
    units = np.concatenate([FIRST.T, SECOND], axis=1)
    distance = np.linalg.norm(units[0] - units[2])
    assert unit_scores(two(), GeometricMedian()).tolist() == pytest.approx([distance, -np.inf, distance])
    weights = np.random.default_rng(0).normal(size=(3, 2, 7)).astype(np.float32)
    wanted = [sum(np.linalg.norm(weights[..., i] - weights[..., j]) for j in range(7)) for i in range(7)]
    assert unit_scores(group([part(variable(weights))]), GeometricMedian()) == pytest.approx(np.array(wanted), rel=1e-6)


def test_scales_of_batch_normalization():
    gammas = [part(variable([0.5, 0.0, -2.0], "gamma")), part(variable([1.5, 0.0, 1.0], "gamma"))]
    scaled = group([part(variable(FIRST))], scales=gammas)
    assert unit_scores(scaled, BatchNormScale()).tolist() == [1.0, -np.inf, 1.5]
    with pytest.raises(
        ValueError,
        match=r"BatchNormScale: expected a BatchNormalization with scale=True .* got none in g; protect it "
        r"\(Channel\(protected=\('first',\)\)\), or choose another criterion",
    ):
        unit_scores(group([part(variable(FIRST), layer="first")]), BatchNormScale())


def test_random_is_the_same_in_every_run_and_differs_by_group():
    other = group([part(variable(FIRST))], name="other")
    found = unit_scores(one(), Random(3))
    assert found[[0, 2]] == pytest.approx([0.15119, 0.43410], abs=1e-5)
    assert found.tolist() == unit_scores(one(), Random(3)).tolist()
    assert len({tuple(unit_scores(g, Random(seed))) for g in (one(), other) for seed in (3, 4)}) == 4


def test_members_are_added_up_or_averaged():
    kernels = [part(variable(FIRST))]
    sites = [site(keras.layers.ReLU(name=name), 3) for name in ("a", "b")]
    sites += [site(keras.layers.ReLU(name="c"), 4, units=[2, -1, 2, 0])]
    trunk = group(kernels, sites)
    given = Given(
        {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([10.0, 0.0, 5.0]), "c": np.array([4.0, 9.0, 6.0, 1.0])}
    )
    assert unit_scores(trunk, Taylor(), given).tolist() == [12.0, -np.inf, 18.0]
    assert unit_scores(trunk, ActivationMean(), given).tolist() == [4.0, -np.inf, 18 / 4]


def test_gates_are_the_scores():
    given = Given({}, np.array([1.0, 0.0, 3.0], np.float32))
    assert unit_scores(one(), Taylor(), given).tolist() == [1.0, -np.inf, 3.0]


def test_a_pruned_unit_is_last_whatever_was_gathered_before():
    sites = [site(keras.layers.ReLU(name="a"), 3)]
    pruned = group([part(variable(FIRST))], sites, [part(variable([1.0, 0.0, 1.0], "gamma"))])
    given = Given({"a": np.array([1.0, 7.0, 3.0])})
    assert unit_scores(pruned, Taylor(), given).tolist() == [1.0, -np.inf, 3.0]
    alive = group([part(variable(FIRST))], sites, [part(variable([1.0, 0.5, 1.0], "gamma"))])
    assert unit_scores(alive, Taylor(), given).tolist() == [1.0, 7.0, 3.0]


def test_errors():
    observed = group([part(variable(FIRST))], [site(keras.layers.ReLU(name="a"), 3)])
    for stats in (None, Given({"a": None})):
        with pytest.raises(
            ValueError, match=r"Taylor: expected what was gathered of the units of g, got none; .*data="
        ):
            unit_scores(observed, Taylor(), stats)
    with pytest.raises(ValueError, match="got NaN"):
        unit_scores(observed, Taylor(), Given({"a": np.array([1.0, np.nan, 2.0])}))


def test_normalized():
    scores = np.array([3.0, -np.inf, 4.0], np.float32)
    assert normalized(scores).tolist() == [0.6, -np.inf, 0.8]
    assert normalized(1e-30 * np.array([3.0, 4.0], np.float32)) == pytest.approx([0.6, 0.8])
    assert normalized(np.zeros(2)).tolist() == [0.0, 0.0]
    assert normalized(np.full(2, -np.inf)).tolist() == [-np.inf, -np.inf]
    assert normalized(np.array([3.0, -4.0])).tolist() == [0.6, -0.8]


def test_positions():
    assert positions(np.array([7, -1, 5, 9, 100]), np.array([9, 5, 7])).tolist() == [2, -1, 1, 0, -1]
    assert positions(np.array([[0], [3]]), np.array([0])).tolist() == [[0], [-1]]
