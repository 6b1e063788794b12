"""A linear model whose gradients are known, for the tests of what is done to gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import numpy as np
from keras import layers

from keras_prune.criteria import Criterion
from keras_prune.gradients import optimizers_of, slots
from keras_prune.masks import mask_constraint, prunable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


@dataclasses.dataclass(frozen=True)
class Slope(Criterion):
    """The mean gradient itself, so that tests see what is gathered."""

    gathers: ClassVar[bool] = True
    resets: ClassVar[bool] = False

    def __call__(self, weights, statistic=None):
        return np.abs(self.need(statistic))

    def gather(self, weights, gradient):
        assert weights.dtype == gradient.dtype == "float32"
        return gradient


def linear(optimizer=None, **options):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False, name="out")])
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse", **options)
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 1, "verbose": 0, "shuffle": False, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


MODES: dict[str, dict] = {
    "plain": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "3 steps": {"steps_per_execution": 3},
    "eager": {"run_eagerly": True},
}


def gradient_of(weights, x=X, y=Y):
    """Of the mean squared error of a linear model, by hand."""
    return 2 * x.T @ (x @ weights - y) / y.size


def mean_gradient(weights):
    return np.mean([gradient_of(weights, X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)], axis=0)


def assert_no_momentum(model):
    optimizer = optimizers_of(model)[0]
    by_owner = slots(optimizer, model.trainable_variables)
    for path, variable in prunable(model).items():
        pruned = mask_constraint(variable).mask.numpy() == 0
        assert pruned.any()
        assert by_owner[id(variable)]
        for slot in by_owner[id(variable)]:
            assert (slot.numpy()[pruned] == 0).all(), (path, slot.name)
