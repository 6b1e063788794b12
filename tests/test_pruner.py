"""Pruner: hand-written loops and train_on_batch end as fit does."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from keras import layers, ops

from keras_prune.allocation import kept_count
from keras_prune.callbacks import PruneCallback
from keras_prune.criteria import Criterion
from keras_prune.masks import mask_constraint, prunable
from keras_prune.pruner import Pruner
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]


@dataclasses.dataclass(frozen=True)
class Taylor(Criterion):
    gathers: ClassVar[bool] = True

    def __call__(self, weights, statistic=None):
        return np.where(weights == 0, -1, self.need(statistic))

    def gather(self, weights, gradient):
        return ops.abs(weights * gradient)


def network():
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh", name="hidden"), layers.Dense(3, name="out")])


def loop(model, optimizer, *, compiled="graph"):
    """A function that trains on one batch, by hand."""

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.mean_squared_error(y, model(x, training=True)))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step if compiled == "eager" else tf.function(step, jit_compile=compiled == "jit")


def assert_exact_zeros(model):
    for path, variable in prunable(model).items():
        pruned = variable.numpy()[mask_constraint(variable).mask.numpy() == 0]
        assert (pruned == 0).all(), path


def assert_target(model, sparsity=0.8):
    for path, variable in prunable(model).items():
        assert np.count_nonzero(variable.numpy()) == kept_count(int(np.prod(variable.shape)), sparsity), path


@pytest.mark.parametrize("compiled", ["eager", "graph", "jit"])
def test_a_gradient_tape_loop_ends_as_fit_does(compiled):
    schedule = PolynomialDecay(final_sparsity=0.75)
    fitted = network()
    fitted.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=compiled == "jit")
    callback = PruneCallback(schedule)
    fitted.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=[callback])

    model, optimizer = network(), keras.optimizers.Adam(0.01)
    pruner = Pruner(model, schedule, num_steps=12, optimizer=optimizer)
    train = loop(model, optimizer, compiled=compiled)
    for x, y in BATCHES * 2:
        train(x, y)
        assert_exact_zeros(model)  # inside the step already
        pruner.step()
        assert_exact_zeros(model)
    pruner.finish()
    assert (pruner.steps, pruner.sparsity) == (12, callback.sparsity)
    assert_target(model, 0.75)
    for ours, theirs in zip(prunable(model).values(), prunable(fitted).values(), strict=True):
        assert (mask_constraint(ours).mask.numpy() == mask_constraint(theirs).mask.numpy()).all()
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_train_on_batch():
    model = network()
    model.compile("adam", "mse")
    model.train_on_batch(*BATCHES[0])  # compiled before the pruner is there
    pruner = Pruner(model, num_steps=12)
    sparsities = []
    for x, y in BATCHES * 2:
        model.train_on_batch(x, y)
        assert_exact_zeros(model)
        pruner.step()
        sparsities.append(pruner.sparsity)
    pruner.finish()
    assert sparsities == sorted(sparsities)
    assert_target(model)
    model.train_on_batch(*BATCHES[0])
    assert_target(model)


@pytest.mark.parametrize("compiled", ["eager", "graph", "jit"])
def test_a_loop_that_gathers_gradients_and_masks_them(compiled):
    model, optimizer = network(), keras.optimizers.SGD(0.01, momentum=0.9)
    pruner = Pruner(
        model, ConstantSparsity(0.5, frequency=2), optimizer=optimizer, criterion=Taylor(), mask_gradients=True
    )
    train = loop(model, optimizer, compiled=compiled)
    for x, y in BATCHES:
        train(x, y)
        pruner.step()
    pruner.finish()
    assert_target(model, 0.5)
    assert "apply" not in vars(optimizer)
    for momentum in optimizer.variables:
        if momentum.name.endswith("kernel_momentum"):
            assert np.count_nonzero(momentum.numpy()) <= momentum.numpy().size / 2


def test_a_criterion_by_its_gradients_in_train_on_batch():
    model = network()
    model.compile("sgd", "mse")
    pruner = Pruner(model, ConstantSparsity(0.5), criterion=Taylor())
    for x, y in BATCHES:
        model.train_on_batch(x, y)
        pruner.step()
    pruner.finish()
    assert_target(model, 0.5)


def test_loops_that_use_no_keras_optimizer():
    model = network()
    pruner = Pruner(model, num_steps=6)
    for x, y in BATCHES:
        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.mean_squared_error(y, model(x)))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign_sub(0.1 * gradient)
        pruner.step()
        assert_exact_zeros(model)
    pruner.finish()
    assert_target(model)


def test_a_step_traced_before_the_pruner_gives_no_gradients():
    model, optimizer = network(), keras.optimizers.SGD(0.01)
    train = loop(model, optimizer)
    train(*BATCHES[0])
    pruner = Pruner(model, ConstantSparsity(0.5), optimizer=optimizer, criterion=Taylor())
    train(*BATCHES[0])
    with pytest.raises(ValueError, match=r"expected the gradients of all pruned weights.*hidden/kernel, out/kernel"):
        pruner.step()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own saving on NumPy 2
def test_the_state_is_saved_with_the_weights(tmp_path):
    file = tmp_path / "model.weights.h5"

    def run(train_on, file_at=None, load=False):
        model = network()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        pruner = Pruner(model, ConstantSparsity(0.5, frequency=4), criterion=Taylor(), num_steps=12)
        if load:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(file)
        for x, y in train_on:
            model.train_on_batch(x, y)
            pruner.step()
            if pruner.steps == file_at:
                model.save_weights(file)
        pruner.finish()
        return pruner, [mask_constraint(v).mask.numpy() for v in prunable(model).values()], model

    one, masks, model = run(BATCHES * 2, file_at=7)  # in the middle of gathering
    two, again, restarted = run((BATCHES * 2)[7:], load=True)
    assert (one.steps, two.steps) == (12, 12)
    for a, b in zip(masks, again, strict=True):
        assert (a == b).all()
    for a, b in zip(model.get_weights(), restarted.get_weights(), strict=True):
        assert (a == b).all()
    plain = network()
    plain.load_weights(file)  # a file with a state loads into a model without
    model.save_weights(tmp_path / "plain.weights.h5")
    model = network()
    pruner = Pruner(model, num_steps=12)
    model.load_weights(tmp_path / "plain.weights.h5")  # and the other way round
    assert pruner.steps == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_a_state_of_other_layers_is_refused(tmp_path):
    model = network()
    Pruner(model, num_steps=12, layers="out")
    model.save_weights(tmp_path / "model.weights.h5")
    other = network()
    Pruner(other, num_steps=12)
    with pytest.raises(
        ValueError, match=r"expected a saved state.*of shapes \[\[6, 8\], \[8, 3\]\], got.*\[\[8, 3\]\]"
    ):
        other.load_weights(tmp_path / "model.weights.h5")


def test_ending_early_is_said(caplog):
    logging.get_absl_logger().propagate = True
    model = network()
    Pruner(model, num_steps=12).finish()
    assert "Pruner: training ended after step 0, before the schedule's end_step=6" in caplog.text


def twice():
    model = network()
    first = Pruner(model, num_steps=12)
    assert first.steps == 0
    Pruner(model, num_steps=12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Pruner(network()), ValueError, r"expected num_steps=\.\.\., the batches of the whole training"),
        (lambda: Pruner(3), TypeError, r"expected a Keras 3 model \(keras\.Model\), got builtins\.int"),
        (lambda: Pruner(keras.Sequential([layers.Dense(2)]), num_steps=9), ValueError, r"got one not built; call it"),
        (lambda: Pruner(network(), ConstantSparsity(0.5), layers="x"), ValueError, r"got 'x'; this model has: hidden"),
        (lambda: Pruner(network(), ConstantSparsity(0.5), critereon="magnitude"), TypeError, r"critereon"),
        (lambda: Pruner(network(), 0.5), TypeError, r"expected a keras_prune schedule.*final_sparsity=0\.5"),
        (twice, ValueError, r"one Pruner or PruneCallback.*two for hidden/kernel"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
