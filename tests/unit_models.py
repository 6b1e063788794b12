"""Tiny models with hand-made groups of units, and what criteria gather of them, computed by an explicit second pass."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_prune.graph import Group, Part, Site

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 6, 3)).astype("float32")
Y = RNG.integers(0, 4, 24)
SEQUENCES = RNG.normal(size=(24, 5, 3)).astype("float32")


def part(variable, axis=-1, units=None, *, layer=""):
    units = np.arange(variable.shape[axis]) if units is None else np.array(units)
    return Part(variable, axis % len(variable.shape), units, zeroed=True, kind="kernel", layer=layer)


def site(layer, size, *, axis=-1, units=None):
    return Site(layer, axis, np.arange(size) if units is None else np.array(units), layer.name)


def group(kernels, sites=(), scales=(), *, name="g"):
    units = np.unique(np.concatenate([p.units for p in kernels]))
    units = units[units >= 0]
    return Group(name, units, tuple(kernels), tuple(scales), tuple(sites), 1, None)


def compiled(model, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss, **options)
    return model


def cnn(*, normalization=layers.BatchNormalization, **options):
    """Two convolutions, the first with a normalization, observed behind their activations; and their groups."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="first")(image)
    norm = normalization(name="norm")
    x = layers.ReLU(name="first_out")(norm(x))
    x = layers.Conv2D(4, 3, activation="tanh", name="second")(x)
    model = keras.Model(image, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    norm.beta.assign([0.3, -0.2, 0.1, 0.0, -0.4])
    return compiled(model, **options), groups_of_cnn(model)


def groups_of_cnn(model):
    first, norm, second = (model.get_layer(name) for name in ("first", "norm", "second"))
    return [
        group([part(first.kernel)], [site(model.get_layer("first_out"), 5)], [part(norm.gamma)], name="first"),
        group([part(second.kernel)], [site(second, 4)], name="second"),
    ]


def dense(**options):
    """A network of one hidden layer, on flat images."""
    stack = [layers.Flatten(), layers.Dense(5, "relu", name="hidden"), layers.Dense(4, name="out")]
    model = compiled(keras.Sequential([keras.Input((6, 6, 3)), *stack]), **options)
    hidden = model.get_layer("hidden")
    return model, [group([part(hidden.kernel)], [site(hidden, 5)])]


def second_pass(model, names, data, *, training=True):
    """Activations of layers, and the gradients by them of the sum of the examples' losses: [(NumPy, NumPy), ...]."""
    x, y = data
    front = keras.Model(model.inputs[0], [*(model.get_layer(name).output for name in names), model.outputs[0]])
    state = [v.numpy() for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        *activations, outputs = front(x, training=training)
        losses = keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True)
        total = ops.sum(losses)
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)  # moving statistics as they were
    gradients = tape.gradient(total, activations)
    return [(a.numpy(), g.numpy()) for a, g in zip(activations, gradients, strict=True)]


def batches(size=8):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, len(X), size)]


def expected(model, names, of_example, *, size=8):
    """The mean over all examples of what a function (activation, gradient) of one example says, for each layer."""
    passes = [second_pass(model, names, batch) for batch in batches(size)]
    return [
        np.mean([of_example(a, g) for one in passes for a, g in zip(*one[i], strict=True)], axis=0)
        for i in range(len(names))
    ]


def taylor_of_example(activation, gradient):
    """Molchanov et al. 2017, equations 7 and 8, by a loop over units: (units,)."""
    return [abs(np.mean(gradient[..., unit] * activation[..., unit])) for unit in range(activation.shape[-1])]
