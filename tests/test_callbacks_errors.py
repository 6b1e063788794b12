"""Wrong input, at every door: what was expected, what came, what to do."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_prune
from keras_prune import ConstantSparsity, PolynomialDecay, PruneCallback, Pruner

X, Y = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)


def network():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2, name="out")])
    model.compile("sgd", "mse")
    return model


def fit(*callbacks, model=None):
    (model or network()).fit(X, Y, verbose=0, callbacks=list(callbacks))


class Legacy:
    """Stands for a model of tf_keras, which must not be imported beside Keras 3."""

    __module__ = "tf_keras.src.engine.training"


def same_callback_for_two_models():
    callback = PruneCallback(ConstantSparsity(0.5))
    fit(callback)
    fit(callback)


def same_callback_twice():
    callback = PruneCallback(ConstantSparsity(0.5))
    fit(callback, callback)


CASES = {
    "sparsity of prune": (
        lambda: keras_prune.prune(network(), 1.5),
        ValueError,
        r"sparsity: expected .* from 0\.0 up to but not including 1\.0, got 1\.5; for 80 % zeros give 0\.8",
    ),
    "percent": (lambda: keras_prune.prune(network(), 80), ValueError, r"got 80; for 80 % zeros give 0\.8"),
    "negative sparsity": (lambda: keras_prune.prune(network(), -0.1), ValueError, r"got -0\.1"),
    "sparsity of a schedule": (
        lambda: PruneCallback(ConstantSparsity(1.5)),
        ValueError,
        r"ConstantSparsity\.target_sparsity: expected .* got 1\.5",
    ),
    "final sparsity": (
        lambda: PruneCallback(PolynomialDecay(final_sparsity=1.0)),
        ValueError,
        r"PolynomialDecay\.final_sparsity: expected .* not including 1\.0, got 1\.0",
    ),
    "sparsity of a layer": (
        lambda: PruneCallback(allocation={"hidden": 1.5}),
        ValueError,
        r"PerLayer\['hidden'\]: expected .* got 1\.5",
    ),
    "unknown layer of prune": (
        lambda: keras_prune.prune(network(), 0.5, layers="hiden"),
        ValueError,
        r"layers: expected names .* got 'hiden'; this model has: hidden/kernel, out/kernel",
    ),
    "unknown layer of PruneCallback": (
        lambda: fit(PruneCallback(layers=["hidden", "conv"])),
        ValueError,
        r"layers: expected names .* got 'conv'; this model has: hidden/kernel, out/kernel",
    ),
    "unknown layer of an allocation": (
        lambda: fit(PruneCallback(ConstantSparsity(0.5), allocation={"conv": 0.5})),
        ValueError,
        r"PerLayer: expected names .* got 'conv'; this model has: hidden/kernel",
    ),
    "unknown layer of Pruner": (
        lambda: Pruner(network(), num_steps=4, layers="conv"),
        ValueError,
        r"layers: expected names .* got 'conv'; this model has",
    ),
    "a text for a sparsity": (
        lambda: keras_prune.prune(network(), "0.5"),
        ValueError,
        r"sparsity: expected.*got '0\.5'",
    ),
    "a layer for its name": (
        lambda: keras_prune.prune(network(), 0.5, layers=network().layers[0]),
        TypeError,
        r"layers: expected None, a name or regular expression.*got <Dense name=hidden",
    ),
    "no steps": (
        lambda: Pruner(network(), num_steps=0),
        ValueError,
        r"Pruner\.num_steps: expected a whole number of training steps \(batches\) >= 1, got 0",
    ),
    "half a step": (lambda: Pruner(network(), num_steps=1.5), ValueError, r"num_steps: expected a whole.*got 1\.5"),
    "the name of an optimizer": (
        lambda: Pruner(network(), num_steps=4, optimizer="adam"),
        TypeError,
        r"Pruner\.optimizer: expected the Keras optimizer whose apply the loop calls, got 'adam'",
    ),
    "wrappers of a model not built": (
        lambda: keras_prune.wrapper_callbacks(keras.Sequential([keras_prune.Prune(layers.Dense(3), 0.5)])),
        ValueError,
        r"wrapper_callbacks: expected a model that has weights, got one not built; call it on a batch of data",
    ),
    "data without targets": (
        lambda: keras_prune.prune(network(), 0.5, criterion="taylor", data=X),
        ValueError,
        r"data: expected \(x, y\).*or batches of these, got an array of shape \(8, 4\); give targets",
    ),
    "a tuple without targets": (
        lambda: keras_prune.prune(network(), 0.5, criterion="taylor", data=(X,)),
        ValueError,
        r"data: expected \(x, y\).*got a tuple of 1; give targets",
    ),
    "tf_keras in prune": (
        lambda: keras_prune.prune(Legacy(), 0.5),
        TypeError,
        r"expected a Keras 3 model.*got tf_keras",
    ),
    "tf_keras in strip": (lambda: keras_prune.strip(Legacy()), TypeError, r"expected a Keras 3 model.*got tf_keras"),
    "tf_keras in Pruner": (lambda: Pruner(Legacy()), TypeError, r"got tf_keras.*remove TF_USE_LEGACY_KERAS"),
    "tf_keras in fit": (
        lambda: PruneCallback().set_model(Legacy()),
        TypeError,
        r"got tf_keras\.src\.engine\.training\.Legacy; build it with Keras 3.*TF_USE_LEGACY_KERAS",
    ),
    "end before begin": (
        lambda: PruneCallback(PolynomialDecay(begin_step=100, end_step=10)),
        ValueError,
        r"expected end_step >= begin_step, got begin_step=100 and end_step=10; steps are batches",
    ),
    "end before begin, constant": (
        lambda: ConstantSparsity(0.5, begin_step=9, end_step=3),
        ValueError,
        r"expected end_step >= begin_step, got begin_step=9 and end_step=3",
    ),
    "a number for a schedule": (
        lambda: PruneCallback(0.9),
        TypeError,
        r"schedule: expected a keras_prune schedule.*final_sparsity=0\.9",
    ),
    "the name of a schedule": (lambda: PruneCallback("cosine"), ValueError, r"schedule: expected one of"),
    "a number for a criterion": (lambda: PruneCallback(criterion=1), TypeError, r"criterion: expected"),
    "the name of a pattern": (lambda: PruneCallback(pattern="2:4"), ValueError, r"pattern: expected one of"),
    "the name of an allocation": (
        lambda: PruneCallback(allocation="fair"),
        ValueError,
        r"allocation: expected one of",
    ),
    "a number for a model": (lambda: PruneCallback().set_model(3), TypeError, r"expected a Keras 3 model"),
    "begin after the training": (
        lambda: fit(PruneCallback(PolynomialDecay(begin_step=100))),
        ValueError,
        r"expected begin_step below the 1 steps of this fit, got 100; begin earlier, train longer",
    ),
    "one callback twice in a fit": (
        same_callback_twice,
        ValueError,
        r"expected each callback once in fit\(callbacks=\.\.\.\), got this one twice",
    ),
    "one callback for two models": (
        same_callback_for_two_models,
        ValueError,
        r"expected the model that this callback began with .*, got .*make a new PruneCallback for each model",
    ),
    "two callbacks for the same weights": (
        lambda: fit(PruneCallback(ConstantSparsity(0.5)), PruneCallback(ConstantSparsity(0.5))),
        ValueError,
        r"expected one PruneCallback or Pruner for each weight, got two for hidden/kernel; use one, .* or give each",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()
