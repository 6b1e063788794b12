"""Models that cannot be shrunk: the error says why, and nothing is changed."""

from __future__ import annotations

import inspect
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_prune


@pytest.fixture
def recursion_limit():
    """Sets Python's limit for one test."""
    before = sys.getrecursionlimit()
    yield sys.setrecursionlimit
    sys.setrecursionlimit(before)


def chain(number):
    """So many layers in a row between two dense ones."""
    x = inputs = keras.Input((4,))
    x = layers.Dense(6, name="first")(x)
    for _ in range(number - 2):
        x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def test_a_thousand_layers_in_a_row(recursion_limit):
    """As deep as Keras itself can connect."""
    recursion_limit(5000)
    model = keras_prune.prune(chain(1000), 0.5, pattern=keras_prune.Channel())
    small = keras_prune.shrink(model)
    assert small.get_layer("first").units == 3
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-6)


class Counted(layers.ReLU):
    """Counts how often it is connected."""

    connected = 0

    def __call__(self, *args, **kwargs):
        Counted.connected += 1
        return super().__call__(*args, **kwargs)


def test_a_sequential_model_is_connected_once():
    """Not anew with each further layer, as by `Sequential.from_config`."""
    counts = []
    for behind in (1, 9):
        stack = [layers.Dense(6), Counted(), *[layers.ReLU() for _ in range(behind)], layers.Dense(2)]
        model = keras.Sequential([keras.Input((4,)), *stack])
        Counted.connected = 0
        keras_prune.shrink(model)
        counts.append(Counted.connected)
    assert counts[0] == counts[1] > 0


def test_more_layers_in_a_row_than_python_allows_calls(recursion_limit):
    model = chain(150)
    recursion_limit(len(inspect.stack()) + 120)
    with pytest.raises(
        RecursionError, match=r"with 151 layers; raise the limit before: sys.setrecursionlimit\(10000\)"
    ):
        keras_prune.dependencies(model)


def unbuilt():
    return keras.Sequential([layers.Dense(4), layers.Dense(2)], name="unbuilt")


@pytest.mark.parametrize("function", [keras_prune.dependencies, keras_prune.shrink])
def test_a_sequential_model_without_inputs(function):
    with pytest.raises(
        ValueError, match=r"expected one that is built, got 'unbuilt'.*begin it with keras.Input.*or call it on data"
    ):
        function(unbuilt())


def test_a_path_is_no_history():
    with pytest.raises(TypeError, match=r"expected a keras_prune.ShrinkHistory, got 'history.json'; make one"):
        keras_prune.shrink(chain(3), history="history.json")


class Own(keras.Model):
    """Only its code knows what follows what."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(4)

    def call(self, x):
        return self.hidden(x)


def test_channels_that_shrink_cannot_remove_are_warned_of(caplog):
    """Before any training, in a model that cannot be traced; and where nothing is zero."""
    own = Own()
    own(np.ones((2, 3), "float32"))
    keras_prune.prune(own, 0.5, pattern=keras_prune.Channel())
    assert "shrink cannot remove any, for this is Own, whose layers only its own code connects" in caplog.text
    caplog.clear()
    assert keras_prune.shrink(chain(3)).count_params() == chain(3).count_params()
    assert "no channel that may go is zero" in caplog.text


@pytest.mark.parametrize("protected", [None, 3, [layers.Dense(3)]])
def test_what_is_no_name_of_a_layer_protects_nothing(protected):
    with pytest.raises(TypeError, match=r"Channel.protected: expected names or regular expressions of layers, got"):
        keras_prune.Channel(protected=protected)


def test_a_quantity_is_no_target():
    with pytest.raises(TypeError, match=r"expected what shall be left, such as Target\('flops', 0.5\), got 'flops'"):
        keras_prune.Greedy(4, target="flops")


def test_as_many_targets_as_inputs():
    model = chain(3)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"expected as many targets as inputs, got arrays of \[3, 8\] examples"):
        keras_prune.prune(
            model, 0.5, criterion="taylor", pattern=keras_prune.Channel(), data=(np.ones((8, 4)), np.ones((3, 2)))
        )


def in_two_models():
    """A layer in two models."""
    shared, inputs = layers.Dense(6, name="shared"), keras.Input((4,))
    a, b = (keras.Sequential([keras.Input((4,)), shared, layers.Dense(5)], name=name) for name in "ab")
    return keras.Model(inputs, layers.Dense(2)(a(inputs) + b(inputs)))


def beside_its_model():
    """A layer in a model, and beside it."""
    shared, inputs = layers.Dense(6, name="shared"), keras.Input((4,))
    a = keras.Sequential([keras.Input((4,)), shared, layers.Dense(5)], name="a")
    return keras.Model(inputs, layers.Dense(2)(layers.concatenate([a(inputs), shared(inputs)])), name="b")


def beside_its_wrapper():
    """A layer in a wrapper, and beside it."""
    shared, inputs = layers.Dense(6, name="shared"), keras.Input((3, 4))
    steps = layers.TimeDistributed(shared, name="a")
    return keras.Model(inputs, layers.Dense(2)(layers.concatenate([steps(inputs), shared(inputs)])), name="b")


def model_in_two_models():
    """A model in two models."""
    shared, inputs = keras.Sequential([keras.Input((4,)), layers.Dense(6)], name="shared"), keras.Input((4,))
    a, b = (keras.Sequential([keras.Input((4,)), shared, layers.Dense(5)], name=name) for name in "ab")
    return keras.Model(inputs, layers.Dense(2)(a(inputs) + b(inputs)))


SHARED = pytest.mark.parametrize("build", [in_two_models, beside_its_model, beside_its_wrapper, model_in_two_models])
IN_TWO = r"got 'shared' in '(a|b)' and in '(a|b)', of which Keras makes two layers"


@SHARED
def test_a_layer_in_two_models_is_refused_before_any_training(build):
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=IN_TWO):
        keras_prune.prune(model, 0.4, pattern=keras_prune.Channel())
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert all(variable.constraint is None for variable in model.trainable_variables)


@SHARED
def test_a_layer_in_two_models_is_not_shrunk(build):
    history = keras_prune.ShrinkHistory()
    with pytest.raises(ValueError, match=IN_TWO):
        keras_prune.shrink(build(), history=history)
    assert history.rounds == []


def test_a_model_that_is_called_twice_shrinks():
    keras.utils.set_random_seed(0)
    twice = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="wide"), layers.Dense(4)], name="twice")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(twice(twice(layers.Dense(4)(inputs)))))
    small = keras_prune.shrink(keras_prune.prune(model, 0.5, pattern=keras_prune.Channel()))
    assert small.get_layer("twice").get_layer("wide").units == 3
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5)


def test_a_layer_without_weights_in_two_models_becomes_two():
    shared, inputs = layers.ReLU(name="shared"), keras.Input((4,))
    a, b = (keras.Sequential([keras.Input((4,)), layers.Dense(6), shared], name=name) for name in "ab")
    model = keras_prune.prune(
        keras.Model(inputs, layers.Dense(2)(a(inputs) + b(inputs))), 0.5, pattern=keras_prune.Channel()
    )
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(keras_prune.shrink(model)(x), model(x), rtol=1e-5)
