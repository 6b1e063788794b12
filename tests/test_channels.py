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
)

import keras_prune as kp
from keras_prune.graph import dependencies
from keras_prune.masks import mask_constraint, prunable

pytestmark = pytest.mark.usefixtures("seeded")


def zeros(model):
    return int(zero_channels(model, "a").sum()), int(zero_channels(model, "c").sum())


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


# Allocations.


def test_global_ranks_all_groups_and_meets_the_total():
    model = residual()
    for name in ("a", "b"):  # their units all have the same score; those of c rise steeply
        model.get_layer(name).kernel.assign(np.ones(model.get_layer(name).kernel.shape))
    kernel = model.get_layer("c").kernel
    kernel.assign(np.broadcast_to(2.0 ** np.arange(6), kernel.shape))
    kp.prune(model, 3 / 14, pattern=kp.Channel(), allocation="global")
    assert zero_channels(model, "c").tolist() == [True, True, True, False, False, False]
    assert zeros(model) == (0, 3)
    kp.prune(model, 11 / 14, pattern=kp.Channel(minimum=2), allocation="global")
    # 3 of 14 are 3 kept, but each group keeps 2
    assert zeros(model) == (6, 4)


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        ({"c": 0.0}, (4, 0)),
        ({"b": 0.75}, (6, 3)),
        ({"a/kernel": 0.25, "c": 2 / 3}, (2, 4)),
        (kp.Exempt("uniform", first=True, last=False), (0, 3)),
        (kp.Exempt("global", first=False, last=False, layers=["b"]), (0, 3)),
        (kp.Exempt({"a": 0.25}, first=False, last=True), (2, 0)),
    ],
    ids=str,
)
def test_allocations_name_groups_by_their_layers(allocation, expected):
    model = kp.prune(residual(), 0.5, pattern=kp.Channel(), allocation=allocation)
    assert zeros(model) == expected


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"allocation": "erk"}, "looks at single weights"),
        ({"allocation": {"nothing": 0.5}}, r"got 'nothing'; this model has: a\+b, a/kernel, b/kernel, c"),
        ({"layers": "out"}, "got none in this model.*the model's output"),
        ({"layers": "a"}, "b/kernel is not chosen"),
        ({"criterion": "taylor"}, "expected data for the criterion"),
        ({"pattern": kp.Channel(protected="nothing")}, "got 'nothing'"),
    ],
)
def test_errors_say_what_to_do(options, error):
    with pytest.raises(ValueError, match=error):
        kp.prune(residual(), 0.5, **{"pattern": kp.Channel(), **options})


def test_groups_with_a_layer_that_is_not_chosen_stay(caplog):
    model = kp.prune(residual(), 0.5, pattern=kp.Channel(), layers=["a", "c"])
    assert zeros(model) == (0, 3)
    assert "channels of a+b stay, for b/kernel is not chosen" in caplog.text


def test_round_to_minimum_and_protected():
    assert zeros(kp.prune(residual(), 0.5, pattern=kp.Channel(round_to=3))) == (2, 3)
    assert zeros(kp.prune(residual(), 0.9, pattern=kp.Channel(minimum=5))) == (3, 1)
    assert zeros(kp.prune(residual(), 0.5, pattern=kp.Channel(protected="b"))) == (0, 3)


def normalized(norm):
    inputs = keras.Input((8, 8, 3))
    x = norm(layers.Conv2D(8, 3, padding="same", name="a")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.ReLU()(x))))
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("norm", [layers.LayerNormalization, layers.GroupNormalization, layers.BatchNormalization])
def test_inexact_lets_channels_under_a_normalization_go(norm):
    model = normalized(norm(2) if norm is layers.GroupNormalization else norm())
    if norm is not layers.BatchNormalization:
        with pytest.raises(ValueError, match="expected channels that may go, got none"):
            kp.prune(model, 0.5, pattern=kp.Channel())
    kp.prune(model, 0.5, pattern=kp.Channel(exact=False))
    assert zero_channels(model, "a").sum() == 4
    small = kp.shrink(model, exact=False)
    assert small.get_layer("a").filters == 4
    np.testing.assert_array_equal(
        small.get_layer("a").kernel.numpy(), model.get_layer("a").kernel.numpy()[..., ~zero_channels(model, "a")]
    )
    fit(small, epochs=1)


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


def test_two_callbacks_with_layers_of_their_own():
    model = residual()
    schedules = [kp.ConstantSparsity(sparsity, frequency=1) for sparsity in (0.5, 1 / 3)]
    first = kp.PruneCallback(schedules[0], pattern=kp.Channel(), layers=["a", "b"])
    second = kp.PruneCallback(schedules[1], pattern=kp.Channel(), layers="c")
    fit(model, first, second)
    assert zeros(model) == (4, 2)
    assert (first.sparsity, second.sparsity) == (0.5, pytest.approx(1 / 3))


# Criteria that look at activations and gradients.


@pytest.mark.parametrize("criterion", ["taylor", "taylor_fo", "activation_mean"])
def test_criteria_that_gather_in_training(criterion):
    schedule = kp.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=6, frequency=2)
    probe = UnitsStayZero()
    fit(residual(), kp.PruneCallback(schedule, criterion, pattern=kp.Channel()), probe)
    assert probe.counts[0] == (0, 0)  # the first masks come when the first batch has been seen
    assert probe.counts[-1] == (4, 3)


def test_a_criterion_of_gradients_of_weights_lets_units_come_back():
    callback = kp.PruneCallback(kp.ConstantSparsity(0.5, frequency=2), "movement", pattern=kp.Channel())
    model = residual()
    fit(model, callback)
    assert callback.sparsity == 0.5
    assert (~callback.engine.masks.kept).sum() == 7


@pytest.mark.parametrize("criterion", ["taylor", "snip", "apoz"])
def test_criteria_on_data(criterion):
    model = kp.prune(residual(), 0.5, criterion=criterion, pattern=kp.Channel(), data=(X, Y))
    assert zeros(model) == (4, 3)


def test_taylor_finds_the_units_that_the_loss_does_not_see():
    model = residual()
    kernel = model.get_layer("out").kernel.numpy().reshape(6, 6, 6, 3)
    kernel[:, :, [1, 4]] = 0
    model.get_layer("out").kernel.assign(kernel.reshape(-1, 3))
    model.get_layer("c").kernel.assign(0.01 * model.get_layer("c").kernel)
    model.get_layer("unscaled").beta.assign(np.full(6, 10.0))  # no unit is dead
    kp.prune(model, 1 / 3, criterion="taylor", pattern=kp.Channel(), data=(X, Y), layers="c")
    assert np.flatnonzero(zero_channels(model, "c")).tolist() == [1, 4]


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
