"""The graph of a model, and what belongs to a channel."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.graph import channel_followers, make_graph
from keras_prune.wrappers import wrap


def branched():
    inputs = keras.Input((6, 6, 2), name="images")
    x = layers.Conv2D(4, 3, name="first")(inputs)
    y = layers.BatchNormalization(name="norm")(x)
    z = layers.Conv2D(4, 1, use_bias=False, name="second")(y)
    both = layers.Add(name="add")([layers.ReLU(name="relu")(y), z])
    shared = layers.Dense(3, name="shared")
    return keras.Model(inputs, {"a": shared(both), "b": shared(layers.BatchNormalization(name="last")(both))})


def test_a_functional_model():
    graph = make_graph(branched())
    assert graph is not None
    assert graph.inputs["add"] == [["relu", "second"]]
    assert graph.inputs["shared"] == [["add"], ["last"]]
    assert sorted(graph.consumers("norm")) == ["relu", "second"]
    assert graph.next("first") == "norm"
    assert [graph.next(name) for name in ("norm", "second", "add", "last", "shared")] == [None] * 5
    assert graph.outputs == {"shared"}


def test_a_sequential_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.ReLU(name="b")])
    graph = make_graph(model)
    assert graph is not None
    assert graph.inputs == {"a": [[]], "b": [["a"]]}
    assert (graph.next("a"), graph.next("b"), graph.outputs) == ("b", None, {"b"})


def test_a_subclassed_model_has_none():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.ones((1, 4)))
    assert make_graph(model) is None
    assert channel_followers(model, model.dense.kernel) == [model.dense.bias]


@pytest.mark.filterwarnings("ignore:`build")
def test_a_layer_that_is_never_called_has_no_kernel():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.unused, self.dense = layers.Dense(3), layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    model(np.ones((1, 4)))
    assert channel_followers(model, model.dense.kernel) == [model.dense.bias]


@pytest.mark.parametrize("wrapped", [False, True])
def test_followers_of_a_convolution_with_batch_normalization(wrapped):
    model = wrap(branched()) if wrapped else branched()
    names = {}
    for variable in model.trainable_variables:
        names[variable.path] = [follower.path for follower in channel_followers(model, variable)]
    found = {path.split("/")[-2]: [p.split("/")[-2:] for p in value] for path, value in names.items() if value}
    assert found == {
        "first": [["first", "bias"], ["norm", "gamma"], ["norm", "beta"]],
        "shared": [["shared", "bias"]],
    }


def test_followers_in_nested_and_other_layers():
    separable, norm = layers.SeparableConv1D(3, 2), layers.BatchNormalization(scale=False)
    inner = keras.Sequential([keras.Input((6, 4)), separable, norm])
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layers.LSTM(2)(inner(layers.Embedding(9, 4)(layers.Flatten()(inputs))[:, :6])))
    assert channel_followers(model, separable.pointwise_kernel) == [separable.bias, norm.beta]
    assert channel_followers(model, separable.depthwise_kernel) == []
    assert channel_followers(model, model.layers[-1].cell.kernel) == []


def test_normalization_over_other_axes_does_not_follow():
    model = keras.Sequential([keras.Input((6, 3)), layers.Dense(3), layers.BatchNormalization(axis=1)])
    assert channel_followers(model, model.weights[0]) == [model.layers[0].bias]
