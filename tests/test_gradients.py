"""Gradients in the training step: what is gathered, and what is masked."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from gradient_models import MODES, RNG, Slope, Y, assert_no_momentum, fit, linear, mean_gradient  # type: ignore[import-not-found]
from keras import layers, ops

from keras_prune.callbacks import PruneCallback
from keras_prune.gradients import Gradients, clips, optimizers_of
from keras_prune.masks import mask_constraint, prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

pytestmark = pytest.mark.usefixtures("seeded")


@dataclasses.dataclass(frozen=True)
class Renewed(Slope):
    resets: ClassVar[bool] = True


class Spy(keras.callbacks.Callback):
    """Keeps the engine's statistics after every batch."""

    def __init__(self, callback):
        super().__init__()
        self.callback, self.seen, self.counts = callback, [], []

    def on_train_batch_end(self, batch, logs=None):
        gradients = self.callback.engine.gradients
        self.seen.append(gradients.statistic("out/kernel"))
        self.counts.append(float(gradients.counts["out/kernel"].numpy()))


never = ConstantSparsity(0.5, begin_step=10_000)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.0),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=1024.0),
    "loss scale factor": lambda: keras.optimizers.SGD(0.0, loss_scale_factor=64.0),
    "accumulation": lambda: keras.optimizers.SGD(0.0, gradient_accumulation_steps=2),
    "clipped": lambda: keras.optimizers.SGD(0.0, global_clipnorm=1e-3),
}


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [*((optimizer, "plain") for optimizer in OPTIMIZERS), *(("sgd", mode) for mode in MODES), ("loss scale", "jit")],
)
def test_the_mean_gradient_is_gathered(optimizer, mode):
    model = linear(OPTIMIZERS[optimizer](), **MODES[mode])
    callback = PruneCallback(never, Slope())
    spy = Spy(callback)
    fit(model, callback, spy, epochs=2)
    assert spy.counts[-1] == 6
    assert spy.seen[-1] == pytest.approx(mean_gradient(model.get_weights()[0]), abs=1e-6)
    assert "apply" not in vars(optimizers_of(model)[0])  # the optimizer is left as it was


def test_nothing_is_gathered_without_the_callback():
    model = linear()
    fit(model)  # the step is traced before
    callback = PruneCallback(never, Slope())
    fit(model, callback)
    fit(model)
    assert float(callback.engine.gradients.counts["out/kernel"].numpy()) == 3
    fit(model, callback)
    assert float(callback.engine.gradients.counts["out/kernel"].numpy()) == 6


def test_a_skipped_step_is_not_gathered():
    model = linear(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=3e38))
    callback = PruneCallback(never, Slope())
    fit(model, callback, epochs=4)  # the scale overflows at first and is halved
    gradients = callback.engine.gradients
    assert 0 < float(gradients.counts["out/kernel"].numpy()) < 12
    assert gradients.statistic("out/kernel") == pytest.approx(mean_gradient(model.get_weights()[0]), abs=0.3)


def test_masks_are_made_from_the_mean_and_the_mean_begins_anew():
    model = linear()
    callback = PruneCallback(ConstantSparsity(0.5, begin_step=3, frequency=3), Renewed())
    spy = Spy(callback)
    fit(model, spy, callback, epochs=2)
    assert spy.counts == [1, 2, 3, 1, 2, 3]
    assert mask_constraint(model.trainable_variables[0]).mask.numpy().sum() == 4


def test_mask_of_the_first_update_is_that_of_the_mean_gradient():
    model = linear()
    expected = np.abs(mean_gradient(model.get_weights()[0])).reshape(-1)
    fit(model, PruneCallback(ConstantSparsity(0.5, begin_step=3), Renewed()))
    kept = np.flatnonzero(mask_constraint(model.trainable_variables[0]).mask.numpy())
    assert kept.tolist() == sorted(np.argsort(expected)[4:].tolist())


def test_first_masks_come_after_the_first_batch():
    model = linear(keras.optimizers.SGD(0.1))
    history = fit(model, PruneCallback(ConstantSparsity(0.5), Renewed()))
    assert history.history["sparsity"] == [0.5]
    model = linear(keras.optimizers.SGD(0.1))
    fit(model, PruneCallback(PolynomialDecay(final_sparsity=0.75), Renewed()), epochs=3)
    assert np.count_nonzero(model.get_weights()[0]) == 2


def test_a_custom_train_step_and_two_optimizers():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(4, name="a"), layers.Dense(2, name="b")

        def compile(self, first, second):
            super().compile()
            self.first, self.second = first, second

        def call(self, x):
            return self.b(self.a(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                loss = ops.mean((y - self(x)) ** 2)
            for optimizer, layer in ((self.first, self.a), (self.second, self.b)):
                optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
            return {"loss": loss}

    model = Two()
    model.compile(keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.1))
    fit(model, PruneCallback(ConstantSparsity(0.5), Renewed()), epochs=2)
    assert [np.count_nonzero(v.numpy()) for v in prunable(model).values()] == [8, 4]


def test_gradients_that_do_not_come_by_are_said():
    class Own(keras.Sequential):
        def train_step(self, data):
            self.trainable_variables[0].assign_sub(ops.ones((4, 2)))
            return {"loss": ops.zeros(())}

    model = Own([keras.Input((4,)), layers.Dense(2, use_bias=False, name="out")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"expected the gradients of all pruned weights.*got none of out/kernel"):
        fit(model, PruneCallback(ConstantSparsity(0.5), Slope()))


def embedding():
    stack = [layers.Embedding(6, 3, name="table"), layers.Flatten(), layers.Dense(2, name="out")]
    return keras.Sequential([keras.Input((2,), dtype="int32"), *stack])


TOKENS = RNG.integers(0, 6, size=(24, 2))


@pytest.mark.parametrize("mode", ["plain", "jit"])
def test_sparse_gradients_of_an_embedding(mode):
    model = embedding()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **MODES[mode])
    callback = PruneCallback(ConstantSparsity(0.5, begin_step=1, frequency=1), Slope(), mask_gradients=True)
    model.fit(TOKENS, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    assert [mask_constraint(v).mask.numpy().sum() for v in prunable(model).values()] == [9, 6]
    assert_no_momentum(model)


@pytest.mark.parametrize("mode", MODES)
def test_masked_gradients_reach_no_momentum(mode):
    model = linear(keras.optimizers.Adam(0.01, clipnorm=1.0), **MODES[mode])
    fit(model, PruneCallback(ConstantSparsity(0.5), mask_gradients=True), epochs=2)
    assert_no_momentum(model)
    fit(model)  # without the callback they do
    with pytest.raises(AssertionError):
        assert_no_momentum(model)


def test_masked_gradients_take_no_part_in_clipping():
    def step(mask_gradients):
        keras.utils.set_random_seed(3)
        model = linear(keras.optimizers.SGD(1.0, global_clipnorm=0.01))
        before = model.get_weights()[0]
        fit(model, PruneCallback(ConstantSparsity(0.75), mask_gradients=mask_gradients), steps_per_epoch=1)
        return np.linalg.norm((model.get_weights()[0] - before)[model.get_weights()[0] != 0])

    assert step(mask_gradients=True) == pytest.approx(0.01, rel=1e-3)
    assert step(mask_gradients=False) < 0.0096


def test_clipping_without_masked_gradients_is_said_once(caplog):
    logging.get_absl_logger().propagate = True
    model = linear(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, clipnorm=1.0)))
    callback = PruneCallback(ConstantSparsity(0.5))
    fit(model, callback)
    fit(model, callback)
    assert caplog.text.count("clips gradients (clipnorm=1.0)") == 1
    fit(linear(keras.optimizers.SGD(0.1, clipnorm=1.0)), PruneCallback(ConstantSparsity(0.5), mask_gradients=True))
    fit(linear(keras.optimizers.SGD(0.1)), PruneCallback(ConstantSparsity(0.5)))
    assert caplog.text.count("clips gradients") == 1
    assert clips(keras.optimizers.SGD(global_clipnorm=2)) == "global_clipnorm=2"
    assert clips(keras.optimizers.SGD(clipvalue=0.5)) == "clipvalue=0.5"
    assert clips(keras.optimizers.SGD()) is None


def test_gradients_without_variables_are_refused_while_they_are_needed():
    model = linear(keras.optimizers.SGD(0.1))
    gradients = Gradients(Slope())
    gradients.watch(prunable(model))
    model.optimizer.build(model.trainable_variables)
    gradients.connect(optimizers_of(model))
    with pytest.raises(ValueError, match=r"got gradients alone.*optimizer\.apply\(gradients, model"):
        model.optimizer.apply([ops.ones((4, 2))])
    gradients.disconnect()
    model.optimizer.apply([ops.ones((4, 2))])
