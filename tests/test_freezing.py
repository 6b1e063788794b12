"""Layers that rest while others retrain."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.freezing import FreezeCallback, frozen
from keras_prune.masks import prunable
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune
from keras_prune.wrappers import wrap

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:__array__ implementation")]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
IMAGES = RNG.normal(size=(32, 6, 6, 1)).astype("float32")
LABELS = RNG.integers(0, 3, size=32)


def conv():
    stack = [
        layers.Conv2D(2, 3, name="conv"),
        layers.Flatten(),
        layers.Dense(4, name="dense"),
        layers.Dense(3, name="out"),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *stack])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, x=X, **options):
    return model.fit(x, LABELS, **{"batch_size": 8, "epochs": 1, "verbose": 0, **options})


def kernels(model):
    return [variable.numpy() for variable in prunable(model).values()]


@pytest.mark.parametrize(
    "which", ["convolutions", "conv", ["conv", "nothing.*|conv"], lambda layer: layer.name == "conv"]
)
def test_frozen_layers_rest(which):
    model = conv()
    before = model.get_weights()
    with frozen(model, which) as same:
        assert same is model
        fit(model, IMAGES)
        after = model.get_weights()
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, False, True, True, True, True]
    fit(model, IMAGES)
    assert not any(np.array_equal(a, b) for a, b in zip(after, model.get_weights(), strict=True))


@pytest.mark.parametrize("wrapped", [False, True])
def test_frozen_and_pruned(wrapped):
    model = prune(wrap(conv()) if wrapped else conv(), 0.5)
    with frozen(model, "dense"):
        fit(model, IMAGES)
        assert len(model.trainable_variables) == 2
    fit(model, IMAGES)
    for weights in kernels(model):
        assert (weights == 0).mean() == 0.5


def executed(function, *args):
    """Types of the operations that a step needs for its outputs and assignments; others are traced but never run."""
    graph = tf.function(function).get_concrete_function(*args).graph
    stack = [op for op in graph.get_operations() if op.op_def.is_stateful] + [tensor.op for tensor in graph.outputs]
    seen = {}
    while stack:
        op = stack.pop()
        if op.name not in seen:
            seen[op.name] = op.type
            stack += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return list(seen.values())


def test_frozen_layers_are_not_back_propagated():
    model = conv()

    def count():
        return executed(lambda x, y: model.train_step((x, y)), IMAGES, LABELS).count("Conv2DBackpropFilter")

    fit(model, IMAGES)
    assert count() == 1
    with frozen(model, "convolutions"):
        assert count() == 0
    assert count() == 1


def test_freeze_callback_from_epoch_to_epoch():
    model = conv()
    probe = []

    class Probe(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            probe.append(self.model.get_weights())

    start = model.get_weights()
    fit(model, IMAGES, epochs=4, callbacks=[FreezeCallback("convolutions", 1, end_epoch=3), Probe()])
    still = [np.array_equal(a[0], b[0]) for a, b in zip([start, *probe], probe, strict=False)]
    assert still == [False, True, True, False]
    assert not any(np.array_equal(a[2], b[2]) for a, b in zip([start, *probe], probe, strict=False))
    fit(model, IMAGES, callbacks=[FreezeCallback("dense")])
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("begin_epoch", [0, 1])
def test_freezing_and_pruning_in_one_fit(begin_epoch, order):
    model = conv()
    callbacks = [FreezeCallback("convolutions", begin_epoch), PruneCallback(ConstantSparsity(0.5))]
    fit(model, IMAGES, epochs=2, callbacks=callbacks[::order])
    assert [(weights == 0).mean() for weights in kernels(model)] == [0.5] * 3


def test_freezing_errors():
    model = conv()
    with (
        pytest.raises(ValueError, match=r"expected 'convolutions', 'dense', or names.*this model has: conv, "),
        frozen(model, "other"),
    ):
        pass
    with pytest.raises(ValueError, match="got all of them"), frozen(model, lambda layer: True):
        pass
    assert len(model.trainable_variables) == 6
    with pytest.raises(ValueError, match="begin_epoch < end_epoch, got begin_epoch=2, end_epoch=2"):
        FreezeCallback("conv", 2, end_epoch=2)
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    with pytest.raises(ValueError, match="without use_ema"), frozen(model, "conv"):
        pass


def test_what_was_frozen_inside_of_a_layer_stays_so():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__(name="own")
            self.first, self.second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
            self.first.trainable = False

        def build(self, shape):
            self.first.build(shape)
            self.second.build((*shape[:-1], 4))

        def call(self, x):
            return self.second(self.first(x))

    model = keras.Sequential([keras.Input((6,)), Own(), layers.Dense(3, name="out")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    bias = model.get_layer("out").bias
    bias.trainable = False
    before = [variable.path for variable in model.trainable_variables]
    with frozen(model, "own"):
        fit(model)
        assert [variable.path.split("/")[-2:] for variable in model.trainable_variables] == [["out", "kernel"]]
    with frozen(model, "out"):
        pass
    assert [variable.path for variable in model.trainable_variables] == before
    assert len(before) == 3


def test_a_model_that_is_not_built():
    model = keras.Sequential([layers.Conv2D(2, 3), layers.Flatten(), layers.Dropout(0.1), layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="frozen: expected a model that has weights, got one not built yet"):
        fit(model, IMAGES, callbacks=[FreezeCallback("convolutions")])
    fit(model, IMAGES)  # its optimizer was left alone


def test_layers_that_are_frozen_already_cost_one_compilation():
    model, functions = conv(), []
    model.get_layer("conv").trainable = False

    class Probe(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            functions.append(self.model.train_function)

    fit(model, IMAGES, epochs=3, callbacks=[FreezeCallback("convolutions"), Probe()])
    assert functions[0] is functions[1] is functions[2]
    assert not model.get_layer("conv").trainable
