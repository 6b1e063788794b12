"""Models and data whose units' worth is known by hand, for the tests of the oracle."""

from __future__ import annotations

import keras
import numpy as np

X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
Y = X @ np.array([[3.0], [1.0]], np.float32)


def three_units(**options) -> keras.Model:
    """y = 3 a + b + 0 c with the units a = x0, b = x1, c = x0 + x1: exact on the data."""
    layers = [keras.layers.Dense(3, name="hidden", **options), keras.layers.Dense(1, name="out", use_bias=False)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    layers[0].set_weights([np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.zeros(3)])
    layers[1].set_weights([np.array([[3.0], [1.0], [0.0]])])
    model.compile(loss="mse")
    return model


def images(seed: int = 0) -> keras.Model:
    """Convolutions with a residual sum and normalisation, all weights random."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same", name="branch", use_bias=False)(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    x = keras.layers.Activation("sigmoid")(x + y)  # not zero at zero: what is removed is not the activation
    x = keras.layers.Conv2D(3, 3, strides=2, name="head", activation="relu")(x)
    outputs = keras.layers.Dense(4, name="out")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if "norm" in variable.path or "bias" in variable.path:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def image_data(number: int = 20) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(number, 6, 6, 2)).astype(np.float32)
    return x, generator.integers(0, 4, number).astype(np.int32)
