"""Models, data and a probe for the tests of PruneCallback."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from keras_prune.allocation import kept_count
from keras_prune.masks import mask_constraint, prunable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
IMAGES = RNG.normal(size=(48, 6, 6, 2)).astype("float32")
TOKENS = RNG.integers(0, 9, size=(48, 5))


class Probe(keras.callbacks.Callback):
    """Checks at every batch end that what the masks prune is exactly zero, and records sparsities."""

    def __init__(self):
        super().__init__()
        self.zeros, self.logged = [], []

    def on_train_batch_end(self, batch, logs=None):
        zeros = size = 0
        for path, variable in prunable(self.model).items():
            weights, constraint = variable.numpy(), mask_constraint(variable)
            if constraint is not None:
                pruned = weights[constraint.mask.numpy() == 0]
                assert (pruned == 0).all(), path
                assert not np.signbit(pruned).any(), path
            zeros += (weights == 0).sum()
            size += weights.size
        self.zeros.append(zeros / size)
        self.logged.append(logs.get("sparsity"))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, activation="relu")
        self.out = layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def dense():
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")]), X


def conv():
    stack = [layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization(), layers.DepthwiseConv2D(2)]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack, layers.Flatten(), layers.Dense(3)]), IMAGES


def lstm():
    return keras.Sequential([keras.Input((5, 1)), layers.LSTM(4), layers.Dense(3)]), TOKENS[..., None].astype("float32")


def embedding():
    stack = [layers.Embedding(9, 4), layers.GlobalAveragePooling1D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *stack]), TOKENS


def attention():
    inputs = keras.Input((5, 1))
    x = layers.Dense(4)(inputs)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), TOKENS[..., None].astype("float32")


def subclassed():
    return Subclassed(), X


def unbuilt():
    return keras.Sequential([layers.Dense(8, "relu"), layers.Dense(3)]), X


def two_inputs():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(4)
    return keras.Model({"a": a, "b": b}, layers.Dense(3)(layers.Concatenate()([shared(a), shared(b)]))), {
        "a": X,
        "b": X,
    }


KINDS = [dense, conv, lstm, embedding, attention, subclassed, unbuilt, two_inputs]
MODES: dict[str, dict] = {
    "plain": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "4 steps": {"steps_per_execution": 4},
}


def fit(model, x=X, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, **options}
    return model.fit(x, Y, callbacks=list(callbacks), **options)


def compiled(kind=dense, **options):
    model, x = kind()
    model.compile("adam", "mse", **options)
    return model, x


def assert_target(model, sparsity):
    for path, variable in prunable(model).items():
        size = int(np.prod(variable.shape))
        assert np.count_nonzero(variable.numpy()) == kept_count(size, sparsity), path
