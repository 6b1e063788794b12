"""What others do while a fit runs, or break off: masks that change in it, and steps that are given back."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_prune

X, Y = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32), np.zeros((64, 3), np.float32)
FIT = {"epochs": 3, "batch_size": 16, "verbose": 0}


def network() -> keras.Model:
    model = keras.Sequential([keras.Input((10,)), layers.Dense(32, "relu"), layers.Dense(3)])
    model.compile("adam", "mse")
    return model


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = layers.Dense(8, "relu"), layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def sparsity(model: keras.Model) -> float:
    kernels = [weight.value.numpy() for weight in model.trainable_variables if len(weight.shape) == 2]
    return sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def test_prune_inside_a_running_fit_is_enforced_from_the_next_batch_on():
    model, seen = network(), []
    rounds = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: keras_prune.prune(model, 0.3 * (epoch + 1)),
        on_train_batch_end=lambda batch, logs: seen.append(sparsity(model)),
    )
    model.fit(X, Y, callbacks=[rounds], **FIT)
    assert seen[:4] == [0.0] * 4
    assert seen[4:8] == pytest.approx([0.3] * 4, abs=0.01)  # 320 and 96 weights: whole weights are pruned
    assert seen[8:] == pytest.approx([0.6] * 4, abs=0.01)
    assert sparsity(model) == pytest.approx(0.9, abs=0.01)


def test_strip_inside_a_running_fit_lets_zeros_go():
    model = keras_prune.prune(network(), 0.8)
    strip = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: keras_prune.strip(model))
    model.fit(X, Y, callbacks=[strip], **FIT)
    assert sparsity(model) < 0.5


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_first_fit_gives_the_train_step_back(again):
    model = Subclassed()
    model.compile("adam", "mse")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[keras_prune.PruneCallback(), Interrupt()], **FIT)
    callbacks = [keras_prune.PruneCallback()] if again else []
    model.fit(X, Y, callbacks=callbacks, **FIT)
    assert "train_step" not in vars(model)
    assert sparsity(model) == pytest.approx(0.8 if again else 0.0, abs=0.01)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: keras_prune.prune(network(), 0.5, layers=3), TypeError, "layers: expected None, a name.*got 3"),
        (lambda: keras_prune.prune(network(), 0.5, layers=[1]), TypeError, r"layers: expected.*got \[1\]"),
        (lambda: keras_prune.PruneCallback(allocation="per_layer"), TypeError, r"PerLayer\(sparsities.*give an object"),
        (lambda: keras_prune.PerLayer([0.5]), TypeError, r"PerLayer: expected a dict.*got \[0\.5\]"),
        (
            lambda: keras_prune.PruneCallback({"class_name": "PolynomialDecay", "config": {"foo": 1}}),
            TypeError,
            "schedule: expected the arguments PolynomialDecay.*got {'foo': 1}",
        ),
        (lambda: keras_prune.sparsity_table(Subclassed()), ValueError, "expected a model that has weights"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


class InterruptLater(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


def test_the_next_fit_takes_off_what_an_interrupted_one_left():
    """Or gradients would go on being gathered and masked, and a file's states would count from another number."""
    model = network()
    gathering = keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.5), "taylor", mask_gradients=True)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, callbacks=[gathering, InterruptLater()], **FIT)
    step, seen = model.train_function, []
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.extend(name for name in vars(model) if name.startswith("keras_prune"))
    )
    model.fit(X, Y, callbacks=[keras_prune.PruneCallback(), look], **FIT)
    assert seen == ["keras_prune_state_0"]
    assert "apply" not in vars(model.optimizer)
    assert model.train_function is not step  # it gathered
    assert sparsity(model) == pytest.approx(0.8, abs=0.01)
    assert not [name for name in vars(model) if name.startswith("keras_prune")]


def test_a_callback_of_evaluate_leaves_nothing_for_the_next_fit():
    model, seen = network(), []
    model.evaluate(X, Y, verbose=0, callbacks=[keras_prune.PruneCallback()])
    look = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.extend(name for name in vars(model) if name.startswith("keras_prune"))
    )
    model.fit(X, Y, callbacks=[keras_prune.PruneCallback(), look], **FIT)
    assert seen == ["keras_prune_state_0"]


def test_a_pruner_beside_a_callback_is_refused():
    model = network()
    pruner = keras_prune.Pruner(model, keras_prune.ConstantSparsity(0.5))
    message = r"expected one PruneCallback or Pruner for each weight, got two for .*finish\(\).*its own layers"
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, callbacks=[keras_prune.PruneCallback()], **FIT)
    pruner.finish()
    model.fit(X, Y, callbacks=[keras_prune.PruneCallback()], **FIT)
    assert sparsity(model) == pytest.approx(0.8, abs=0.01)


def test_a_pruner_and_a_callback_for_other_layers():
    model = network()
    first, second = (layer.kernel for layer in model.layers)
    pruner = keras_prune.Pruner(model, keras_prune.ConstantSparsity(0.5), layers=lambda variable: variable is first)
    callback = keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.75), layers=lambda variable: variable is second)
    model.fit(X, Y, callbacks=[callback], **FIT)
    pruner.finish()
    assert [float((kernel.numpy() == 0).mean()) for kernel in (first, second)] == [0.5, 0.75]
