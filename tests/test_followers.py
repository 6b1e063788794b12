"""Channel masks zero the bias, gamma and beta of the channel too."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.masks import mask_constraint, prunable
from keras_prune.patterns import Channel
from keras_prune.schedules import PolynomialDecay
from keras_prune.surgery import prune, strip
from keras_prune.wrappers import wrap

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6, 6, 2)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")


def conv():
    stack = [layers.Conv2D(8, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.ReLU(), layers.Flatten()]
    model = keras.Sequential([keras.Input((6, 6, 2)), *stack, layers.Dense(4, name="hidden"), layers.Dense(3)])
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(RNG.uniform(0.5, 1.0, variable.shape))
    model.compile("adam", "mse", jit_compile=False)
    return model


def assert_groups(model, pruned):
    """Whole channels are zero, with all that goes with them; returns nothing."""
    kernel, bias, gamma, beta = model.trainable_weights[:4]
    zero = ~kernel.numpy().any(axis=(0, 1, 2))
    assert zero.sum() == pruned
    for follower in (bias, gamma, beta):
        np.testing.assert_array_equal(follower.numpy() == 0, zero, err_msg=follower.path)
    hidden = next(v for v in model.trainable_weights if v.shape == (128, 4))
    np.testing.assert_array_equal(
        model.trainable_weights[5].numpy() == 0, ~hidden.numpy().any(axis=0), err_msg="bias of a dense layer"
    )


class Probe(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        zero = ~self.model.trainable_weights[0].numpy().any(axis=(0, 1, 2))
        for follower in self.model.trainable_weights[1:4]:
            assert (follower.numpy()[zero] == 0).all(), follower.path


@pytest.mark.parametrize("make", [conv, lambda: wrap(conv())], ids=["plain", "wrapped"])
def test_in_training(make):
    model = make()
    if not model.compiled:
        model.compile("adam", "mse", jit_compile=False)
    schedule = PolynomialDecay(0.25, 0.5, begin_step=1, end_step=5, frequency=1)
    probe = Probe()
    model.fit(X, Y, 8, 2, verbose=0, callbacks=[probe, PruneCallback(schedule, pattern=Channel()), probe])
    assert_groups(model, 4)
    model.fit(X, Y, 8, 1, verbose=0, callbacks=[probe])
    assert_groups(model, 4)


def test_at_once_and_off_again():
    model = prune(conv(), 0.25, pattern="channel")
    assert_groups(model, 2)
    prune(model, 0.5, pattern="channel")
    assert_groups(model, 4)
    norm = keras.Model(model.inputs[0], model.get_layer("norm").output)
    zero = ~model.trainable_weights[0].numpy().any(axis=(0, 1, 2))
    assert (np.asarray(norm(X))[..., zero] == 0).all()
    strip(model)
    assert all(mask_constraint(variable) is None for variable in model.weights)


def test_other_patterns_leave_them_alone():
    model = prune(conv(), 0.5)
    assert [v.path for v in model.weights if mask_constraint(v) is not None] == [
        v.path for v in prunable(model).values()
    ]


def test_channels_of_a_depthwise_convolution():
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.DepthwiseConv2D(3, depth_multiplier=3)])
    model.layers[0].bias.assign(np.ones(6))
    prune(model, 0.5, pattern=Channel(output_axes=(-2, -1)))
    kernel, bias = model.get_weights()
    np.testing.assert_array_equal(bias == 0, ~kernel.reshape(9, 6).any(axis=0))
    assert (bias == 0).sum() == 3
