"""Which of the optimizer's variables belong to which weight, and what is cleared when masks change."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from gradient_models import assert_no_momentum, fit, linear  # type: ignore[import-not-found]
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.gradients import optimizers_of, slots
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune

pytestmark = pytest.mark.usefixtures("seeded")
ALL_OPTIMIZERS = {
    "momentum": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 1),
    "adam": (lambda: keras.optimizers.Adam(0.1), 2),
    "amsgrad": (lambda: keras.optimizers.Adam(0.1, amsgrad=True), 3),
    "rmsprop": (lambda: keras.optimizers.RMSprop(0.1, momentum=0.9, centered=True), 3),
    "nadam": (lambda: keras.optimizers.Nadam(0.1), 2),
    "adadelta": (lambda: keras.optimizers.Adadelta(0.1), 2),
    "lion": (lambda: keras.optimizers.Lion(0.1), 1),
    "ema and accumulation": (
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, gradient_accumulation_steps=4),
        3,
    ),
    "scaled": (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)), 2),
    "adagrad": (lambda: keras.optimizers.Adagrad(0.1), 1),
    "ftrl": (lambda: keras.optimizers.Ftrl(0.1), 2),
}


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_slots_of_pruned_weights_are_cleared(name):
    make, expected = ALL_OPTIMIZERS[name]
    model = linear(make())
    fit(model)
    variable = model.trainable_variables[0]
    found = slots(optimizers_of(model)[0], model.trainable_variables)[id(variable)]
    assert len(found) == expected
    before = [slot.numpy() for slot in found]
    prune(model, 0.5)
    kept = variable.numpy() != 0
    for slot, old in zip(found, before, strict=True):
        begin = 0.1 if slot.name.endswith("accumulator") and "gradient" not in slot.name else 0.0
        assert (slot.numpy()[~kept] == np.float32(begin)).all(), slot.name
        assert (slot.numpy()[kept] == old[kept]).all(), slot.name
    fit(model)
    assert np.isfinite(variable.numpy()).all()


def test_slots_of_weights_that_come_back_are_cleared():
    model = linear(keras.optimizers.SGD(0.1, momentum=0.9))
    fit(model, PruneCallback(ConstantSparsity(0.75)))
    momentum = slots(model.optimizer, model.trainable_variables)[id(model.trainable_variables[0])][0]
    pruned = model.get_weights()[0] == 0
    assert np.count_nonzero(momentum.numpy()[pruned])  # gradients of pruned weights go in
    prune(model, 0.0)
    assert not np.count_nonzero(momentum.numpy()[pruned])
    assert np.count_nonzero(momentum.numpy()[~pruned])


def test_slots_of_equal_names_belong_in_order():
    inner = [keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name="s") for _ in range(2)]
    model = keras.Sequential([keras.Input((4,)), *inner[:1], layers.Dense(4, name="same_kernel")])
    twice = [model.trainable_variables, *[inner[1].trainable_variables]]
    variables = [*twice[0], *twice[1]]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(variables)
    by_owner = slots(optimizer, variables)
    momenta = [v for v in optimizer.variables if v.name.endswith("momentum")]
    assert [by_owner[id(v)] for v in variables] == [[m] for m in momenta]


def test_multi_optimizer_slots():
    multi = getattr(keras.optimizers, "MultiOptimizer", None)
    if multi is None:
        pytest.skip("this Keras has no MultiOptimizer")
    momentum = keras.optimizers.SGD(0.1, momentum=0.9)
    model = linear(multi(lambda variable: momentum))
    fit(model, PruneCallback(ConstantSparsity(0.5), mask_gradients=True))
    assert_no_momentum(model)
