"""Small pruned Keras models for the tests of exports."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers


def prune(model, *, density=0.1, seed=0):
    """Random masks on all kernels, random biases."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        values = rng.normal(size=variable.shape) * 0.3
        if len(variable.shape) >= 2:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    return model


def dense_model():
    # 784-300-100-10: the sizes of LeNet-300-100, whose file size the project promises.
    stack = [layers.Dense(300, activation="relu"), layers.Dense(100, activation="relu"), layers.Dense(10)]
    return prune(keras.Sequential([keras.Input((784,)), *stack], name="lenet"))


def conv_model():
    inputs = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    outputs = {"first": layers.Dense(10, name="first")(x), "second": layers.Dense(3, "tanh", name="second")(x)}
    model = prune(keras.Model(inputs, outputs))
    rng = np.random.default_rng(1)
    for variable in model.get_layer(index=5).variables:  # the BatchNormalization's: scale, offset, mean, variance
        variable.assign(rng.random(variable.shape) + 0.5)
    return model
