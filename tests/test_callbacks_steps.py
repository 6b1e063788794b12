"""PruneCallback counts steps: masks change when the schedule says so, whatever the data and the executions."""

from __future__ import annotations

import pytest
from absl import logging
from callback_models import Probe, X, Y, assert_target, compiled, fit  # type: ignore[import-not-found]

from keras_prune.callbacks import PruneCallback
from keras_prune.schedules import PolynomialDecay

pytestmark = pytest.mark.usefixtures("seeded")


def test_masks_change_at_the_schedules_steps_only():
    model, _ = compiled()
    probe = Probe()
    fit(model, X, PruneCallback(PolynomialDecay(0.25, 0.75, begin_step=2, end_step=8, power=1, frequency=4)), probe)
    # Steps 2, 6 and 8: masks change at the end of the batch before.
    expected = [0.0] + [0.25] * 4 + [0.25 + 0.5 * 4 / 6] * 2 + [0.75] * 5
    assert probe.logged == pytest.approx(expected, abs=0.01)


def test_steps_per_execution_misses_no_update():
    model, _ = compiled(steps_per_execution=4)
    probe = Probe()
    schedule = PolynomialDecay(0.25, 0.75, begin_step=1, end_step=11, power=1, frequency=5)
    fit(model, X, PruneCallback(schedule), probe, batch_size=6)  # 4, 8, 12, 16 steps done; updates at 1, 6, 11
    assert probe.logged == pytest.approx([0.25, 0.5, 0.75, 0.75], abs=0.01)


def test_a_short_last_execution_is_counted():
    model, _ = compiled(steps_per_execution=4)
    callback, probe = PruneCallback(), Probe()
    fit(model, X, callback, probe)  # 6 batches an epoch: executions of 4 and 2
    assert callback.step == {4: 12, 2: 8}[len(probe.logged)]  # older Keras tells of whole executions only
    assert_target(model, 0.8)


def test_end_step_at_the_very_end_is_reached():
    model, _ = compiled()
    history = fit(model, X, PruneCallback(PolynomialDecay(begin_step=0, end_step=12)))
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    assert_target(model, 0.8)


def generator():
    for start in range(0, 48, 8):
        yield X[start : start + 8], Y[start : start + 8]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # at the end of a generator, always
def test_data_of_unknown_length():
    model, _ = compiled()
    with pytest.raises(
        ValueError, match=r"expected data of known length.*fit\(steps_per_epoch=\.\.\.\).*end_step=1000"
    ):
        model.fit(generator(), verbose=0, shuffle=False, callbacks=[PruneCallback()])
    model.fit(
        generator(), verbose=0, shuffle=False, callbacks=[PruneCallback(PolynomialDecay(begin_step=0, end_step=4))]
    )
    assert_target(model, 0.8)
    model, _ = compiled()
    model.fit(generator(), verbose=0, shuffle=False, steps_per_epoch=5, callbacks=[PruneCallback()])
    assert_target(model, 0.8)


def test_first_epoch_is_not_zero():
    model, _ = compiled()
    callback = PruneCallback()
    fit(model, X, callback, initial_epoch=2, epochs=4)
    assert_target(model, 0.8)
    assert callback.step == 12


def test_ending_early_is_said(caplog):
    model, _ = compiled()
    logging.get_absl_logger().propagate = True
    fit(model, X, PruneCallback(PolynomialDecay(begin_step=0, end_step=100)), epochs=1)
    assert "training ended after step 6, before the schedule's end_step=100; sparsity is" in caplog.text
