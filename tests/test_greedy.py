"""Units away a few at a time, until what is left is small or fast enough."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from unit_pruning_models import UnitsStayZero, fit, residual  # type: ignore[import-not-found]

import keras_prune as kp

pytestmark = pytest.mark.usefixtures("seeded")


def train(target, *, num_units=1, frequency=2, epochs=3, model=None, callbacks=(), **options):
    model = residual() if model is None else model
    greedy = kp.Greedy(num_units, frequency=frequency, target=target)
    callback = kp.PruneCallback(greedy, **{"pattern": kp.Channel(), **options})
    history = fit(model, callback, *callbacks, epochs=epochs)
    return model, callback, history.history


def counted(model, quantity):
    total = kp.costs(model).total
    return {"flops": total.flops, "parameters": total.parameters, "bytes": total.parameter_bytes}[quantity]


@pytest.mark.parametrize(("quantity", "fraction"), [("flops", 0.5), ("parameters", 0.6), ("bytes", 0.6)])
def test_to_a_fraction_of_what_the_dense_model_costs(quantity, fraction):
    probe = UnitsStayZero()
    model, callback, history = train(kp.Target(quantity, fraction), num_units=3, callbacks=[probe])
    left = counted(kp.shrink(model), quantity) / counted(model, quantity)
    assert history[quantity][-1] == left  # exact: counted from the lengths of axes, without a smaller model
    assert left <= fraction
    assert history["sparsity"][-1] == sum(probe.counts[-1]) / 14
    # one unit less would not do: those of before the last removal, and those of the last one but one
    removal = callback.engine._removal
    gone = np.flatnonzero(~callback.engine.masks.kept)
    assert any(removal._left(_with(callback.engine.masks.kept, unit)) > fraction for unit in gone)
    steps = [sum(counts) for counts in probe.counts]
    assert steps[:4] == [0, 3, 3, min(6, steps[-1])]  # none before the second batch, then three every two batches
    assert steps == sorted(steps)


def _with(kept, unit):
    kept = kept.copy()
    kept[unit] = True
    return kept


def test_to_a_number_of_units_one_at_a_time_over_two_fits():
    probe = UnitsStayZero()
    model = residual()
    callback = kp.PruneCallback(
        kp.Greedy(1, frequency=2, target=kp.Target("units", 0.7), begin_step=1), "taylor", pattern=kp.Channel()
    )
    fit(model, callback, probe, epochs=1)
    history = fit(model, callback, probe, epochs=1).history
    # 14 units: 9 of them are the most that is at most 70 %
    assert [sum(counts) for counts in probe.counts] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert history["units"] == [9 / 14]
    assert history["sparsity"] == [5 / 14]


def test_the_least_of_all_groups_go_first():
    model = residual()
    kernel = model.get_layer("c").kernel
    kernel.assign(np.broadcast_to(2.0 ** np.arange(6), kernel.shape))
    for name in ("a", "b"):
        model.get_layer(name).kernel.assign(np.ones(model.get_layer(name).kernel.shape))
    model.optimizer.learning_rate = 0.0
    train(kp.Target("units", 11 / 14), model=model, criterion="magnitude")
    zero = ~kernel.numpy().any(axis=(0, 1, 2))
    assert zero.tolist() == [True, True, True, False, False, False]


def test_rounding_takes_more_units_at_once_and_minimum_holds():
    probe = UnitsStayZero()
    train(kp.Target("units", 0.5), pattern=kp.Channel(round_to=4, protected="c"), callbacks=[probe])
    assert set(probe.counts) == {(0, 0), (4, 0)}
    probe = UnitsStayZero()
    train(kp.Target("units", 0.6), num_units=9, pattern=kp.Channel(minimum=4), callbacks=[probe])
    assert probe.counts[-1] == (4, 2)


def test_a_measured_latency():
    measured = []

    def measure(model):
        measured.append(model.count_params())
        return model.count_params() / 1e6

    model, _, history = train(kp.Target("latency", 0.6, measure=measure), num_units=2)
    assert measured == sorted(measured, reverse=True)
    assert measured[0] == model.count_params()
    assert measured[-1] == kp.shrink(model).count_params() <= 0.6 * measured[0] < measured[-2]
    assert history["latency"][-1] == measured[-1] / measured[0]


def test_a_latency_measured_while_a_criterion_gathers():
    measured = []

    def measure(model):
        kp.export_tflite(model, target="stock")
        measured.append(model.count_params())
        return float(measured[-1])

    model, _, _ = train(kp.Target("latency", 0.6, measure=measure), num_units=6, criterion="taylor")
    assert measured[0] == model.count_params()
    assert measured[-1] == kp.shrink(model).count_params() <= 0.6 * measured[0]


def test_a_measured_latency_counts_channels_under_a_normalization():
    norm = [keras.layers.LayerNormalization(), keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, name="a"), *norm])
    model.compile("adam", "mse")
    target = kp.Target("latency", 0.6, measure=lambda model: float(model.count_params()))
    _, callback, _ = train(target, model=model, pattern=kp.Channel(exact=False))
    assert callback.sparsity == 0.5


def test_latency_of_a_stock_file():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512, "relu"), keras.layers.Dense(2)])
    dense = kp.measure_latency(model, rounds=2)
    assert 0 < dense < 1


def test_a_loaded_state_goes_on(tmp_path):
    states = {}

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states[epoch] = callback.engine.save()

    model = residual()
    callback = kp.PruneCallback(kp.Greedy(1, frequency=2, target=kp.Target("units", 0.6)), pattern=kp.Channel())
    fit(model, callback, Save(), epochs=1)
    other = kp.PruneCallback(callback.schedule, pattern=kp.Channel())
    other.engine.attach(model)
    other.engine.load(states[0])
    assert (other.step, other.sparsity) == (6, 3 / 14)
    assert other.engine.logs == {"sparsity": 3 / 14, "units": 11 / 14}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target": kp.Target("flops", 0.01)}, r"expected a target that can be reached.*with all units gone"),
        ({"target": kp.Target("units", 0.5), "pattern": "unstructured"}, r"expected pattern=Channel\(\)"),
    ],
)
def test_targets_that_cannot_be_met_are_errors_before_training(options, error):
    with pytest.raises(ValueError, match=error):
        train(**options)


def test_training_that_ends_too_early_says_so(caplog):
    train(kp.Target("units", 0.2), epochs=1)
    assert "before the target: 0.7857 of the dense model's units is left, not 0.2000" in caplog.text


def test_a_latency_that_no_removal_reaches_ends_with_a_warning(caplog):
    _, callback, _ = train(kp.Target("latency", 0.1, measure=lambda model: 1.0), num_units=8)
    assert "no more units may go, and 1.0000 of the dense model's latency is left" in caplog.text
    assert callback.sparsity == 12 / 14  # each group keeps one


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: kp.Greedy(0, target=kp.Target("flops", 0.5)), r"Greedy.num_units: expected a whole number"),
        (lambda: kp.Greedy(1, frequency=0, target=kp.Target("flops", 0.5)), r"Greedy.frequency"),
        (lambda: kp.Greedy(1, target=0.5), r"expected what shall be left, such as Target"),
        (lambda: kp.Greedy(1, target=kp.Target("flops", 0.5)).value(3), "has no sparsity of its own"),
        (lambda: kp.Target("mass", 0.5), r"expected one of 'units', 'parameters', 'flops', 'bytes', 'latency'"),
        (lambda: kp.Target("flops", 1.0), r"Target.fraction.*above 0 and below 1"),
        (lambda: kp.Target("flops", True), r"Target.fraction"),
        (lambda: kp.Target("latency", 0.5), r"Target.measure: expected a function"),
        (lambda: kp.Target("flops", 0.5, measure=print), r"none for other quantities"),
        (lambda: kp.Target("latency", 0.5, measure=1), r"Target.measure: expected a function, model -> seconds"),
    ],
)
def test_wrong_values(make, error):
    with pytest.raises((TypeError, ValueError), match=error):
        make()


def test_configurations():
    greedy = kp.Greedy(3, frequency=7, target=kp.Target("bytes", 0.25), begin_step=2)
    assert kp.Greedy.from_config(greedy.get_config()) == greedy
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(greedy)) == greedy
    assert [greedy.last_update(step) for step in (0, 8, 9, 22, 23)] == [None, None, 9, 16, 23]
