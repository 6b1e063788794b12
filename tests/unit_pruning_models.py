"""Models and data for the tests of units in training."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8, 8, 3)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")


def residual(**options):
    """Units: 8 of a and b together (with a depthwise kernel between), 6 of c, behind which nothing scales."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(8, 1, name="b")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    x = layers.Conv2D(6, 3, name="c")(x + y)
    x = layers.ReLU()(layers.BatchNormalization(scale=False, name="unscaled")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    rng = np.random.default_rng(7)
    for variable in model.weights:
        if len(variable.shape) == 1:
            size = 0.1 if variable.name == "moving_mean" else 1.0  # so that no unit is dead
            variable.assign(size * rng.uniform(0.5, 1.0, variable.shape))
    model.compile(options.pop("optimizer", "adam"), "mse", **{"jit_compile": False, **options})
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def zero_channels(model, name, *, axis=-1):
    """Which output channels of a layer's kernel are all zero."""
    kernel = np.moveaxis(model.get_layer(name).kernel.numpy(), axis, 0)
    return ~kernel.reshape(len(kernel), -1).any(axis=1)


def zeros(model):
    """How many channels of `residual` are zero: of a and b together, and of c."""
    return int(zero_channels(model, "a").sum()), int(zero_channels(model, "c").sum())


class UnitsStayZero(keras.callbacks.Callback):
    """After every batch whole units are zero or none of them, in all layers that they join; records sparsities."""

    def __init__(self):
        super().__init__()
        self.counts, self.logged = [], []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        zero = zero_channels(model, "a")
        np.testing.assert_array_equal(zero, zero_channels(model, "b"))
        np.testing.assert_array_equal(zero, zero_channels(model, "depthwise", axis=-2))
        for layer, names in (("a", ["bias"]), ("b", ["bias"]), ("depthwise", ["bias"]), ("norm", ["gamma", "beta"])):
            for name in names:
                values = getattr(model.get_layer(layer), name).numpy()
                np.testing.assert_array_equal(values == 0, zero, err_msg=f"{layer}/{name}")
        last = zero_channels(model, "c")
        for name in ("beta", "moving_mean"):
            values = getattr(model.get_layer("unscaled"), name).numpy()
            np.testing.assert_array_equal(values[last] == 0, True, err_msg=name)
        self.counts.append((int(zero.sum()), int(last.sum())))
        self.logged.append(logs.get("sparsity"))
