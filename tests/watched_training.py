"""Training that is watched for exact zeros: data, models, callbacks."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import keras_prune
from keras_prune.masks import mask_constraint, prunable
from keras_prune.selection import kept_count

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]
TARGET = 0.75


class Watch(keras.callbacks.Callback):
    """After every batch: each kernel has a mask, and what it prunes, a quarter at least, is zero, and not negative."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.look(self.model)

    def look(self, model):
        self.batches += 1
        for path, variable in prunable(model).items():
            mask, weights = mask_constraint(variable).mask.numpy(), variable.numpy()
            assert np.count_nonzero(mask) <= kept_count(mask.size, 0.25), path
            assert not weights[mask == 0].any(), path
            assert not np.signbit(weights[mask == 0]).any(), path


def schedule(end_step=10):
    return keras_prune.PolynomialDecay(0.25, TARGET, begin_step=0, end_step=end_step, frequency=1)


def pruning(**options):
    return keras_prune.PruneCallback(schedule(), **options)


def stack():
    return [layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")]


def sequential(optimizer="adam", **options):
    model = keras.Sequential([keras.Input((6,)), *stack()])
    model.compile(optimizer, "mse", **options)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = stack()

    def call(self, x):
        return self.out(self.hidden(x))


def fit(model, *callbacks, x=X, y=Y, **options):
    model.fit(x, y, **{"batch_size": 8, "epochs": 2, "verbose": 0, **options}, callbacks=list(callbacks))
    return model


def fitted(watch, model, **options):
    """Watched before and after the pruning callback."""
    before = Watch()
    fit(model, before, pruning(), watch, **options)
    assert before.batches == watch.batches
    return model
