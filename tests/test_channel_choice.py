"""Which units are pruned: what allocations, limits and criteria choose."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from unit_pruning_models import (  # type: ignore[import-not-found]
    UnitsStayZero,
    X,
    Y,
    fit,
    residual,
    zero_channels,
    zeros,
)

import keras_prune as kp

pytestmark = pytest.mark.usefixtures("seeded")


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


def test_what_an_error_says_to_protect_can_be_protected():
    """A group of several layers by the name of one of them."""
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="a")(inputs) + layers.Dense(6, name="b")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(5, name="c")(x)))
    with pytest.raises(ValueError, match=r"in a\+b; protect it \(Channel\(protected=\('a',\)\)\), or choose"):
        kp.prune(model, 0.5, criterion="batch_norm_scale", pattern=kp.Channel())
    with pytest.raises(ValueError, match=r"in c; protect it \(Channel\(protected=\('c',\)\)\), or choose"):
        kp.prune(model, 0.5, criterion="batch_norm_scale", pattern=kp.Channel(protected=("a",)))


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


def test_two_callbacks_with_layers_of_their_own():
    model = residual()
    schedules = [kp.ConstantSparsity(sparsity, frequency=1) for sparsity in (0.5, 1 / 3)]
    first = kp.PruneCallback(schedules[0], pattern=kp.Channel(), layers=["a", "b"])
    second = kp.PruneCallback(schedules[1], pattern=kp.Channel(), layers="c")
    fit(model, first, second)
    assert zeros(model) == (4, 2)
    assert (first.sparsity, second.sparsity) == (0.5, pytest.approx(1 / 3))


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
