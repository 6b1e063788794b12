"""Schedules: golden values from TFMOT's formulas, update steps, chosen steps, errors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_prune.callbacks  # noqa: F401 - registers the classes with Keras
from keras_prune import schedules
from keras_prune.schedules import (
    ConstantSparsity,
    CosineSparsity,
    ExponentialSparsity,
    OneShot,
    PolynomialDecay,
    PruningRounds,
    Schedule,
    StepTable,
)

# TFMOT's PolynomialDecay(initial_sparsity=0.5, final_sparsity=0.9, begin_step=10, end_step=20, power=3, frequency=2):
# 0.9 + (0.5 - 0.9) * (1 - clip((t - 10) / 10, 0, 1)) ** 3, worked out by hand.
POLYNOMIAL = {0: 0.5, 10: 0.5, 11: 0.6084, 12: 0.6952, 13: 0.7628, 14: 0.8136, 15: 0.85, 18: 0.8968, 20: 0.9, 99: 0.9}


@pytest.mark.parametrize(("step", "expected"), POLYNOMIAL.items())
def test_polynomial_golden_values(step, expected):
    schedule = PolynomialDecay(0.5, 0.9, begin_step=10, end_step=20, power=3, frequency=2)
    assert schedule.value(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("power", "expected"), [(1, 0.4), (2, 0.6), (3, 0.7)])
def test_polynomial_power(power, expected):
    schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=100, power=power)
    assert schedule.value(50) == pytest.approx(expected, abs=1e-12)


def test_polynomial_updates_are_tfmots_and_the_end():
    schedule = PolynomialDecay(begin_step=10, end_step=20, frequency=4)
    assert [t for t in range(40) if schedule.is_update(t)] == [10, 14, 18, 20]  # TFMOT: 10, 14, 18
    assert [schedule.last_update(t) for t in (0, 9, 10, 13, 14, 19, 20, 1000)] == [None, None, 10, 10, 14, 18, 20, 20]


def test_constant_golden_values_and_updates():
    schedule = ConstantSparsity(0.6, 5, end_step=25, frequency=10)
    assert {schedule.value(t) for t in range(50)} == {0.6}
    assert [t for t in range(50) if schedule.is_update(t)] == [5, 15, 25]
    assert schedule.final_sparsity == 0.6
    endless = ConstantSparsity(0.6, 5, frequency=10)
    assert [t for t in range(50) if endless.is_update(t)] == [5, 15, 25, 35, 45]
    assert endless.resolve(None) is endless


@pytest.mark.parametrize(
    ("given_steps", "num_steps", "expected"),
    [
        ({}, 1000, (0, 500, 5)),
        ({}, 10, (0, 5, 1)),
        ({}, 1, (0, 1, 1)),
        ({"begin_step": 100}, 300, (100, 200, 1)),
        ({"end_step": 1001}, None, (0, 1001, 11)),
        ({"begin_step": 5, "end_step": 5}, None, (5, 5, 1)),
        ({"begin_step": 5, "end_step": 50, "frequency": 100}, None, (5, 50, 100)),
    ],
)
def test_polynomial_chooses_open_steps(given_steps, num_steps, expected):
    schedule = PolynomialDecay(**given_steps).resolve(num_steps)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == expected
    assert sum(map(schedule.is_update, range(expected[1] + 1))) <= 101
    assert schedule.value(expected[1]) == 0.8


def test_one_shot_when_begin_is_end():
    schedule = PolynomialDecay(0.2, 0.7, begin_step=5, end_step=5).resolve(None)
    assert [schedule.value(t) for t in (5, 6)] == [0.7, 0.7]
    assert schedule.last_update(4) is None


@given(
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    st.tuples(st.integers(0, 50), st.integers(0, 500), st.integers(1, 70)),
    st.integers(0, 700),
)
def test_polynomial_properties(sparsities, steps, step):
    (initial, final), (begin, length, frequency) = sparsities, steps
    schedule = PolynomialDecay(initial, final, begin_step=begin, end_step=begin + length, frequency=frequency)
    low, high = sorted((initial, final))
    assert low - 1e-12 <= schedule.value(step) <= high + 1e-12
    assert schedule.value(begin + length) == final
    update = schedule.last_update(step)
    assert (update is None) == (step < begin)
    assert update is None or (update <= step and schedule.is_update(update))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PolynomialDecay(final_sparsity=1.5),
            r"PolynomialDecay\.final_sparsity: expected.*got 1\.5.*give 0\.8",
        ),
        (lambda: PolynomialDecay(initial_sparsity=-0.1), r"initial_sparsity: expected.*got -0\.1"),
        (lambda: PolynomialDecay(final_sparsity=1.0), r"up to but not including 1\.0, got 1\.0"),
        (lambda: ConstantSparsity(float("nan")), r"target_sparsity: expected.*got nan"),
        (lambda: ConstantSparsity("much"), r"target_sparsity: expected.*got 'much'"),  # type: ignore[arg-type]
        (
            lambda: PolynomialDecay(begin_step=10, end_step=5),
            r"end_step >= begin_step, got begin_step=10 and end_step=5",
        ),
        (lambda: ConstantSparsity(0.5, 10, end_step=5), r"end_step >= begin_step"),
        (lambda: PolynomialDecay(begin_step=-1), r"begin_step: expected a whole number of training steps.*got -1"),
        (lambda: PolynomialDecay(end_step=1.5), r"end_step: expected a whole number.*got 1\.5"),  # type: ignore[arg-type]
        (lambda: PolynomialDecay(end_step=float("nan")), r"end_step: expected a whole number.*got nan"),  # type: ignore[arg-type]
        (lambda: PolynomialDecay(end_step="9"), r"end_step: expected a whole number.*got '9'"),  # type: ignore[arg-type]
        (lambda: ConstantSparsity(0.5, frequency=None), r"a begin_step and a frequency, got 0 and None"),  # type: ignore[arg-type]
        (lambda: ConstantSparsity(0.5, frequency=0), r"frequency: expected a whole number.*>= 1, got 0"),
        (lambda: PolynomialDecay(power=0), r"power: expected a number > 0, got 0"),
        (lambda: PolynomialDecay().resolve(None), r"expected data of known length.*steps_per_epoch.*end_step=1000"),
        (lambda: PolynomialDecay(begin_step=9).resolve(9), r"begin_step below the 9 steps of this fit, got 9"),
        (lambda: PolynomialDecay().value(3), r"steps are still open; call resolve"),
        (lambda: PolynomialDecay().last_update(3), r"steps are still open; call resolve"),
        (lambda: schedules.get("cosine"), r"one of 'polynomial_decay', .* or an object, got 'cosine'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Worked out by hand: 0.25 of the density is left at the end, so half of it in the middle; and so on.
EXPONENTIAL = {0: 0.0, 4: 0.0, 5: 0.0, 7: 0.5, 9: 0.75, 99: 0.75}
COSINE = {0: 0.2, 10: 0.2, 15: 0.2 + 0.6 * (1 - 0.5**0.5) / 2, 20: 0.5, 25: 0.8 - 0.6 * (1 - 0.5**0.5) / 2, 30: 0.8}


@pytest.mark.parametrize(("step", "expected"), EXPONENTIAL.items())
def test_exponential_golden_values(step, expected):
    schedule = ExponentialSparsity(final_sparsity=0.75, begin_step=5, end_step=9)
    assert schedule.value(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "expected"), COSINE.items())
def test_cosine_golden_values(step, expected):
    assert CosineSparsity(0.2, 0.8, begin_step=10, end_step=30).value(step) == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from([PolynomialDecay, ExponentialSparsity, CosineSparsity]), st.floats(0, 0.9), st.floats(0, 0.98))
def test_ramps_rise_from_end_to_end(kind, first, last):
    first, last = sorted((first, last))
    schedule = kind(first, last, begin_step=3, end_step=40).resolve(None)
    values = [schedule.value(t) for t in range(50)]
    assert values[:4] == [first] * 4
    assert values[40:] == [last] * 10
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert kind().resolve(1000) == kind(begin_step=0, end_step=500, frequency=5)


def test_exponential_prunes_the_same_share_of_what_is_left_at_each_step():
    schedule = ExponentialSparsity(0.2, 0.9, begin_step=0, end_step=30)
    densities = [1 - schedule.value(t) for t in range(31)]
    assert [b / a for a, b in itertools.pairwise(densities)] == pytest.approx([0.125 ** (1 / 30)] * 30)


def test_one_shot():
    schedule = OneShot(0.7, step=3)
    assert [schedule.value(t) for t in range(5)] == [0.0, 0.0, 0.0, 0.7, 0.7]
    assert [t for t in range(20) if schedule.is_update(t)] == [3]
    assert [schedule.last_update(t) for t in (0, 2, 3, 50)] == [None, None, 3, 3]
    assert OneShot(0.7).resolve(21) == OneShot(0.7, step=10)
    assert schedule.resolve(None) is schedule


def test_step_table():
    schedule = StepTable({20: 0.8, 10: 0.5, 30: 0.6})
    assert [schedule.value(t) for t in (0, 9, 10, 19, 20, 29, 30, 99)] == [0.0, 0.0, 0.5, 0.5, 0.8, 0.8, 0.6, 0.6]
    assert [t for t in range(50) if schedule.is_update(t)] == [10, 20, 30]
    assert (schedule.begin_step, schedule.end_step, schedule.final_sparsity) == (10, 30, 0.6)
    assert schedule.resolve(None) is schedule


def test_pruning_rounds():
    schedule = PruningRounds(0.875, 3, begin_step=10, steps_per_round=5)
    assert schedule.sparsities == pytest.approx((0.5, 0.75, 0.875))
    assert [t for t in range(60) if schedule.is_update(t)] == [10, 15, 20]
    assert [schedule.value(t) for t in (0, 9, 10, 14, 15, 20, 99)] == [0.0, 0.0, 0.5, 0.5, 0.75, 0.875, 0.875]
    assert schedule.end_step == 20
    opened = PruningRounds(0.9, 4, initial_sparsity=0.2)
    assert opened.resolve(100) == PruningRounds(0.9, 4, initial_sparsity=0.2, begin_step=0, steps_per_round=25)
    assert opened.resolve(100).value(0) == pytest.approx(1 - 0.8 * (0.1 / 0.8) ** 0.25)
    assert PruningRounds(0.9, 1).resolve(10).value(0) == 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialSparsity(final_sparsity=1.5), r"ExponentialSparsity.final_sparsity: expected.*got 1\.5"),
        (lambda: CosineSparsity(begin_step=5, end_step=2), r"CosineSparsity: expected end_step >= begin_step"),
        (lambda: CosineSparsity(begin_step=30).resolve(20), r"CosineSparsity: expected begin_step below the 20 steps"),
        (lambda: OneShot(0.5, -1), r"OneShot.step: expected a whole number.*got -1"),
        (lambda: OneShot().resolve(None), r"OneShot: expected data of known length.*OneShot\(0\.8, step=1000\)"),
        (lambda: OneShot().value(0), r"steps are still open"),
        (lambda: StepTable({}), r"StepTable: expected \{step: sparsity, \.\.\.\}.*got \{\}"),
        (lambda: StepTable({0: 1.5}), r"StepTable\[0\]: expected a sparsity.*got 1\.5"),
        (lambda: StepTable({1.5: 0.5}), r"StepTable: expected a whole number of training steps.*got 1\.5"),  # type: ignore[dict-item]
        (lambda: PruningRounds(0.5, 0), r"PruningRounds.num_rounds: expected a whole number >= 1, got 0"),
        (lambda: PruningRounds(0.5, steps_per_round=0), r"steps_per_round: expected a whole number.*>= 1, got 0"),
        (lambda: PruningRounds().resolve(None), r"PruningRounds\(0\.8, 5, steps_per_round=1000\)"),
        (lambda: PruningRounds().value(0), r"steps are still open"),
    ],
)
def test_errors_of_the_other_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


FLOAT: Any = np.float32
INT: Any = np.int64


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecay(FLOAT(0.5), FLOAT(0.75), begin_step=INT(2), end_step=INT(9), frequency=INT(3)),
        ConstantSparsity(FLOAT(0.5), INT(2), frequency=INT(3), end_step=INT(8)),
        OneShot(FLOAT(0.5), INT(3)),
        StepTable({INT(3): FLOAT(0.5), FLOAT(8): FLOAT(0.75)}),
        PruningRounds(FLOAT(0.5), 2, begin_step=INT(2), steps_per_round=INT(3)),
    ],
)
def test_numbers_of_numpy_become_plain_ones(schedule):
    """As in ``end_step = np.ceil(images / batch_size).astype(np.int32) * epochs``; JSON has no numbers of NumPy."""
    config = json.loads(json.dumps(schedule.get_config()))
    assert type(schedule).from_config(config) == schedule
    for step in range(12):
        json.dumps([schedule.value(step), schedule.last_update(step)])


def test_get_by_name_class_config_and_object():
    schedule = PolynomialDecay(0.1, 0.7, begin_step=2, end_step=9, power=2, frequency=3)
    assert schedules.get(schedule) is schedule
    assert schedules.get("polynomial_decay") == schedules.get("PolynomialDecay") == PolynomialDecay()
    assert schedules.get(ConstantSparsity) == ConstantSparsity()
    assert schedules.get("cosine_sparsity") == CosineSparsity()
    assert schedules.get("pruning_rounds") == PruningRounds()
    assert schedules.get({"class_name": "PolynomialDecay", "config": schedule.get_config()}) == schedule
    with pytest.raises(TypeError, match=r"did you mean PolynomialDecay\(final_sparsity=0\.9\)"):
        schedules.get(0.9)


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecay(0.1, 0.7, begin_step=2, end_step=9, power=2, frequency=3),
        ConstantSparsity(0.3, 4, end_step=40, frequency=7),
        PolynomialDecay(),
        ExponentialSparsity(0.1, 0.7, begin_step=2, end_step=9, frequency=3),
        CosineSparsity(0.1, 0.7, begin_step=2, end_step=9, frequency=3),
        OneShot(0.7, 12),
        StepTable({3: 0.5, 9: 0.75}),
        PruningRounds(0.7, 4, initial_sparsity=0.1, begin_step=3, steps_per_round=5),
    ],
)
def test_round_trips_every_argument(schedule):
    assert type(schedule).from_config(schedule.get_config()) == schedule
    config = keras.saving.serialize_keras_object(schedule)
    assert schedules.get({"class_name": config["class_name"], "config": config["config"]}) == schedule


def test_a_users_schedule_needs_value_and_steps_only():
    class Linear(Schedule):
        begin_step, end_step, frequency, final_sparsity = 0, 10, 5, 0.5

        def value(self, step):
            return 0.05 * min(step, 10)

    assert schedules.get(Linear()).resolve(None).last_update(7) == 5
    with pytest.raises(NotImplementedError, match="must define value"):
        Schedule().value(0)
