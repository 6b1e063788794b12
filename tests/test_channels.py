"""Whole units are pruned: at once and in training, in all layers that they join."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from unit_pruning_models import (  # type: ignore[import-not-found]
    RNG,
    UnitsStayZero,
    X,
    Y,
    fit,
    residual,
    zero_channels,
    zeros,
)

import keras_prune as kp
from keras_prune.graph import dependencies
from keras_prune.masks import mask_constraint, prunable

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("criterion", ["random", "magnitude", lambda weights: -np.abs(weights)])
def test_at_once_in_every_layer_and_at_zero_in_later_training(criterion):
    model = residual()
    out = model.get_layer("out").kernel.numpy()
    assert kp.prune(model, 0.5, criterion=criterion, pattern=kp.Channel()) is model
    assert zeros(model) == (4, 3)
    np.testing.assert_array_equal(model.get_layer("out").kernel.numpy(), out)  # protected, and its rows stay
    probe = UnitsStayZero()
    fit(model, probe)
    assert set(probe.counts) == {(4, 3)}


def test_batch_normalization_without_scale_gives_exactly_zero_after_training():
    model = kp.prune(residual(), 0.5, criterion="random", pattern=kp.Channel())
    fit(model)
    gone = zero_channels(model, "c")
    norm = keras.Model(model.input, model.get_layer("unscaled").output)
    for training in (False, True):
        values = np.asarray(norm(X, training=training))
        assert not values[..., gone].any()
        assert values[..., ~gone].any(axis=(0, 1, 2)).all()


def test_prune_and_train_and_prune_again_keeps_what_is_pruned():
    model = kp.prune(residual(), 0.25, pattern=kp.Channel())
    first = zero_channels(model, "a")
    fit(model)
    kp.prune(model, 0.5, pattern=kp.Channel())
    second = zero_channels(model, "a")
    assert first.sum() == 2
    assert second.sum() == 4
    assert second[first].all()


@pytest.mark.parametrize(
    "options",
    [{}, {"jit_compile": True}, {"steps_per_execution": 3}, {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9)}],
    ids=["plain", "jit", "3 steps", "momentum"],
)
def test_in_training_to_the_schedules_target(options):
    model = residual(**options)
    schedule = kp.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=6, frequency=2)
    probe = UnitsStayZero()
    history = fit(model, kp.PruneCallback(schedule, pattern=kp.Channel()), probe)
    assert probe.counts[-1] == (4, 3)
    assert history.history["sparsity"][-1] == 0.5
    fit(model, probe)  # without the callback
    assert probe.counts[-1] == (4, 3)


def test_over_several_fits_and_with_restored_weights():
    model = residual()
    callback = kp.PruneCallback(
        kp.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=10, frequency=1), pattern=kp.Channel(), criterion="taylor"
    )
    restore = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    fit(model, callback, restore, epochs=1)
    fit(model, callback, restore, epochs=1)
    assert callback.step == 12
    assert callback.sparsity == 0.5
    assert zeros(model) == (4, 3)
    assert not model.get_layer("unscaled").moving_mean.numpy()[zero_channels(model, "c")].any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, in save_weights
def test_a_new_process_goes_on_from_the_backup(tmp_path):
    def callback():
        schedule = kp.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=11, frequency=1)
        return kp.PruneCallback(schedule, criterion="taylor", pattern=kp.Channel())

    keras.utils.set_random_seed(3)
    whole = residual()
    initial = whole.get_weights()
    fit(whole, callback())

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path)

    model = residual()
    model.set_weights(initial)
    with pytest.raises(KeyboardInterrupt):
        fit(model, backup(), callback(), Killed())
    again = residual()
    fit(again, backup(), callback())
    for one, other in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6, err_msg=one.path)
    assert zeros(again) == zeros(whole) == (4, 3)


def test_zeros_of_a_file_are_taken_over_as_units():
    model = kp.prune(residual(), 0.5, pattern=kp.Channel())
    other = residual()
    other.set_weights(model.get_weights())
    callback = kp.PruneCallback(pattern=kp.Channel())  # to 80 %, from the 50 % that it finds
    fit(other, callback, epochs=4)
    assert callback.engine.active.initial_sparsity == 0.5
    assert zeros(other) == (6, 5)


def test_slots_of_pruned_units_are_cleared():
    model = residual()
    fit(model, epochs=1)
    kp.prune(model, 0.5, pattern=kp.Channel())
    gone = zero_channels(model, "a")
    gamma, kernel = model.get_layer("norm").gamma, model.get_layer("a").kernel
    for variable in (gamma, kernel):
        slots = [
            s for s in model.optimizer.variables if s.shape == variable.shape and s.name.startswith(_stem(variable))
        ]
        assert len(slots) == 2
        for slot in slots:
            values = slot.numpy()
            assert not values[..., gone].any()
            assert values[..., ~gone].any()


def _stem(variable):
    return variable.path.replace("/", "_")


def test_frozen_normalization_is_zero_too():
    model = residual()
    model.get_layer("norm").trainable = False
    model.compile("adam", "mse")
    kp.prune(model, 0.5, pattern=kp.Channel())
    gone = zero_channels(model, "a")
    for values in (model.get_layer("norm").gamma.numpy(), model.get_layer("norm").beta.numpy()):
        np.testing.assert_array_equal(values == 0, gone)
    fit(model, epochs=1)
    np.testing.assert_array_equal(model.get_layer("norm").gamma.numpy() == 0, gone)


@pytest.mark.parametrize("pattern", [kp.Channel(), kp.Channel(output_axes=-1)])
def test_masked_gradients_are_those_of_whole_units(pattern):
    def momentum(**options):
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model = residual(optimizer=optimizer)
        fit(model, kp.PruneCallback(kp.ConstantSparsity(0.5, frequency=100), pattern=pattern, **options), epochs=1)
        slot = next(v for v in optimizer.variables if v.name.startswith("b_bias")).numpy()
        return slot, zero_channels(model, "b")

    slot, gone = momentum(mask_gradients=True)
    assert gone.sum() == 4
    assert not slot[gone].any()
    assert slot[~gone].all()
    slot, gone = momentum()
    assert slot[gone].all()


def test_regrow_is_refused():
    with pytest.raises(ValueError, match=r"regrow: expected single weights or blocks, or Channel\(output_axes=-1\)"):
        fit(residual(), kp.PruneCallback(pattern=kp.Channel(), regrow="set"))


# Models that cannot be traced, and kernels by themselves.


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(4), layers.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


def test_subclassed_models_have_masks_by_kernel():
    model = Own()
    model(np.ones((1, 3), "float32"))
    kp.prune(model, 0.5, pattern=kp.Channel())
    assert (~model.hidden.kernel.numpy().any(axis=0)).sum() == 2
    assert (~model.out.kernel.numpy().any(axis=0)).sum() == 1
    with pytest.raises(ValueError, match=r"expected Channel\(\) without round_to.*Own, whose layers"):
        kp.prune(model, 0.5, pattern=kp.Channel(round_to=2))


def test_output_axes_prune_each_kernel_by_itself():
    model = kp.prune(residual(), 0.5, pattern=kp.Channel(output_axes=-1))
    assert zeros(model) == (4, 3)
    assert zero_channels(model, "out").sum() == 1


def test_strip_takes_all_masks_off_and_single_weights_can_be_pruned_after():
    model = kp.prune(residual(), 0.5, pattern=kp.Channel())
    kp.prune(model, 0.2)  # single weights: biases follow what is left of their channels
    for name in ("a", "b", "c"):
        gone = zero_channels(model, name)
        assert not model.get_layer(name).bias.numpy()[gone].any()
    kp.strip(model)
    assert all(mask_constraint(variable) is None for variable in model.weights)


def test_a_hand_written_loop():
    model = residual()
    pruner = kp.Pruner(
        model, kp.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=4, frequency=1), criterion="taylor",
        pattern=kp.Channel(),
    )  # fmt: skip
    for _ in range(6):
        model.train_on_batch(X[:8], Y[:8])
        pruner.step()
    pruner.finish()
    assert pruner.sparsity == 0.5
    assert zeros(model) == (4, 3)


def test_nested_and_unbuilt_models():
    hidden, more = layers.Dense(8, "relu", name="hidden"), layers.Dense(6, "relu", name="more")
    inner = keras.Sequential([hidden, more], name="inner")
    model = keras.Sequential([inner, layers.Dense(2, name="out")])
    model.compile("adam", "mse")
    x = RNG.normal(size=(32, 5)).astype("float32")
    callback = kp.PruneCallback(kp.ConstantSparsity(0.5, frequency=1), pattern=kp.Channel())
    model.fit(x, x[:, :2], verbose=0, callbacks=[callback])
    found = dependencies(model)
    zero = found.zero_units()
    assert {group.name: int(zero[group.units].sum()) for group in found.groups} == {
        "inner/hidden": 4,
        "inner/more": 3,
        "out": 0,
    }
    assert callback.sparsity == 0.5
    assert set(prunable(model)) > set(callback.engine.variables)
