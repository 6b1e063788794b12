"""Criteria of units: golden values of what they observe, and oracles."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from keras_prune.criteria import (
    KNOWN,
    ActivationMean,
    ActivationStd,
    APoZ,
    BatchNormScale,
    Criterion,
    GeometricMedian,
    Magnitude,
    MutualInformation,
    Taylor,
    TaylorFO,
    UnitCriterion,
    WeightNorm,
    get,
)
from keras_prune.criteria.mutual_information import mutual_information, quantised

# Two examples, two positions, two units.
Z = np.array([[[1.0, 0.0], [3.0, -2.0]], [[0.0, 0.0], [4.0, 0.0]]], np.float32)
G = np.array([[[1.0, 5.0], [-1.0, 1.0]], [[9.0, 9.0], [0.5, 9.0]]], np.float32)


def observed(criterion, *, axes=(1,)):
    return criterion.observe(ops.convert_to_tensor(Z), ops.convert_to_tensor(G), axes)


@pytest.mark.parametrize(
    ("criterion", "of_example", "averaged"),
    [
        (Taylor(), [[-1.0, -1.0], [1.0, 0.0]], [1.0, 0.5]),
        (Taylor(reduction="sum"), [[-2.0, -2.0], [2.0, 0.0]], [2.0, 1.0]),
        (TaylorFO(), [[-2.0, -2.0], [2.0, 0.0]], [0.0, 1.0]),
        (ActivationMean(), [[2.0, 1.0], [2.0, 0.0]], [2.0, 0.5]),
        (APoZ(), [[1.0, 0.5], [0.5, 0.0]], [0.75, 0.25]),
        (MutualInformation(), [[2.0, -1.0], [2.0, 0.0]], [2.0, -0.5]),
    ],
)
def test_golden_observations(criterion, of_example, averaged):
    found = observed(criterion)
    assert ops.convert_to_numpy(found).tolist() == of_example
    assert ops.convert_to_numpy(criterion.average(found)).tolist() == averaged


def test_standard_deviation_is_that_of_the_batch():
    criterion = ActivationStd()
    found = ops.convert_to_numpy(criterion.average(observed(criterion)))
    assert found == pytest.approx(Z.std(axis=(0, 1)))
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=(7, 3, 5, 4)) + 100).astype(np.float32)  # a large mean costs no digits
    found = criterion.average(criterion.observe(ops.convert_to_tensor(maps), None, (1, 2)))
    assert ops.convert_to_numpy(found) == pytest.approx(maps.astype(np.float64).std(axis=(0, 1, 2)), rel=1e-5)
    flat = criterion.average(criterion.observe(ops.convert_to_tensor(maps[:, 0, 0]), None, ()))
    assert ops.convert_to_numpy(flat) == pytest.approx(maps[:, 0, 0].astype(np.float64).std(axis=0), rel=1e-5)


def test_gates():
    change = ops.convert_to_tensor(np.array([-2.0, 3.0], np.float32))
    assert ops.convert_to_numpy(Taylor().average_gates(change)).tolist() == [2.0, 3.0]
    assert ops.convert_to_numpy(TaylorFO().average_gates(change)).tolist() == [4.0, 9.0]


def test_taylor_is_the_change_of_a_linear_loss():
    """C = sum of a z: setting z to zero changes it by exactly the first order."""
    rng = np.random.default_rng(0)
    slope, z = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    found = ops.convert_to_numpy(Taylor().average(Taylor().observe(z, slope, (1,))))
    changes = [[abs(sum(slope[i, :, unit] * z[i, :, unit])) / 3 for unit in range(4)] for i in range(5)]
    assert found == pytest.approx(np.mean(changes, axis=0), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "bins", "expected"),
    [
        ([3.0, 1.0, 2.0, 4.0], 2, [1, 0, 0, 1]),
        ([1.0, 2.0, 3.0, 4.0], 4, [0, 1, 2, 3]),
        ([0.0, 0.0, 0.0, 5.0], 2, [0, 0, 0, 1]),
        ([0.0, 0.0, 0.0, 0.0], 3, [0, 0, 0, 0]),
        ([7.0], 8, [0]),
    ],
)
def test_quantised(values, bins, expected):
    assert quantised(np.array(values), bins).tolist() == expected


def test_mutual_information_golden():
    same, other = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert mutual_information(same, same) == pytest.approx(np.log(2))
    assert mutual_information(same, other) == 0
    assert mutual_information(same, 1 - same) == pytest.approx(np.log(2))
    assert mutual_information(np.zeros(4, int), same) == 0


def entropy(*columns):
    counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)[1]
    return -sum(count / counts.sum() * np.log(count / counts.sum()) for count in counts)


def test_mutual_information_is_the_sum_of_entropies():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300) * 3  # numbers need not be dense
    values = labels[:, None] * np.array([1.0, 0.0, -0.2]) + rng.normal(size=(300, 3))
    scores = MutualInformation(bins=6).score_examples(values, labels)
    for score, column in zip(scores, values.T, strict=True):
        bins = np.searchsorted(np.sort(column)[[49, 99, 149, 199, 249]], column)  # 6 of 50 each
        assert score == pytest.approx(entropy(bins) + entropy(labels) - entropy(bins, labels), rel=1e-5)
    assert scores[0] > scores[2] > scores[1]


def test_errors():
    for cls in (ActivationMean, ActivationStd, APoZ, MutualInformation, GeometricMedian, BatchNormScale):
        with pytest.raises(ValueError, match=rf"{cls.__name__}: expected units .*pattern=Channel\(\)"):
            cls()(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"MutualInformation.bins: expected a whole number >= 2, got 1"):
        MutualInformation(bins=1)
    with pytest.raises(ValueError, match=r"MutualInformation.examples: expected a whole number >= 1, got True"):
        MutualInformation(examples=True)
    with pytest.raises(ValueError, match=r"Taylor.reduction: expected 'mean' or 'sum', got 'max'"):
        Taylor(reduction="max")
    for name in ("observe", "average_gates", "score_examples"):
        arguments = (None,) * {"observe": 3, "average_gates": 1, "score_examples": 2}[name]
        with pytest.raises(NotImplementedError, match=f"must define {name}"):
            getattr(Criterion(), name)(*arguments)


def test_what_criteria_say_of_themselves():
    observes = {cls.__name__: cls.observes for cls in KNOWN if cls.observes}
    assert observes == {
        "Taylor": "gradients",
        "TaylorFO": "gates",
        **dict.fromkeys(("ActivationMean", "ActivationStd", "APoZ", "MutualInformation"), "activations"),
    }
    assert [cls.__name__ for cls in KNOWN if cls.combines == "sum"] == ["Taylor", "TaylorFO"]
    assert [cls.__name__ for cls in KNOWN if cls.revives] == ["Movement"]
    assert [cls().remembers for cls in (Taylor, Magnitude, MutualInformation)] == [0, 0, 2048]
    assert issubclass(APoZ, UnitCriterion)
    assert Magnitude().score_units([], []) is None


def test_names():
    assert get("apoz") == APoZ()
    with pytest.raises(ValueError, match="'apoz'"):
        get("a poz")
    assert get("activation_mean") == ActivationMean()
    assert get("batch_norm_scale") == BatchNormScale()
    assert get("geometric_median") == GeometricMedian()
    assert get("weight_norm") == WeightNorm()
    assert get({"class_name": "MutualInformation", "config": {"bins": 4}}) == MutualInformation(4, 2048)
