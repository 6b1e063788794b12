"""Which channels go together, which stay and why: literals on small graphs."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_prune.graph import dependencies
from keras_prune.graph.rules import find_rule

layers = keras.layers


def groups(model, **options):
    """Name -> (units, reason to stay)."""
    return {group.name: (len(group.units), group.protected) for group in dependencies(model, **options).groups}


def stack(*inner, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *inner])


def functional(build, shape=(8, 8, 3)):
    x = keras.Input(shape)
    return keras.Model(x, build(x))


OUT = "the model's output"


def test_a_chain_has_one_group_a_layer():
    model = stack(layers.Conv2D(4, 3, name="a"), layers.ReLU(), layers.Flatten(), layers.Dense(5, name="b"))
    assert groups(model) == {"a": (4, None), "b": (5, OUT)}


def test_where_a_unit_lies():
    model = stack(
        layers.Conv2D(4, 3, name="a"), layers.BatchNormalization(name="n"), layers.Flatten(), layers.Dense(2, name="b")
    )
    found = dependencies(model)
    unit = found.groups[0].units[1]
    places = {
        (part.layer, part.variable.name, part.axis, part.zeroed): np.flatnonzero(part.units == unit).tolist()
        for part in found.parts
        if (part.units == unit).any()
    }
    assert places == {
        ("a", "kernel", 3, True): [1],
        ("a", "bias", 0, True): [1],
        ("n", "gamma", 0, True): [1],
        ("n", "beta", 0, True): [1],
        ("n", "moving_mean", 0, False): [1],
        ("n", "moving_variance", 0, False): [1],
        ("b", "kernel", 0, False): list(range(1, 144, 4)),  # each of 6 x 6 places
    }


def test_without_gamma_the_moving_mean_is_zeroed():
    model = stack(layers.Conv2D(4, 3), layers.BatchNormalization(scale=False), layers.Flatten(), layers.Dense(2))
    assert {part.kind: part.zeroed for part in dependencies(model).parts} == {
        **{"kernel": True, "bias": True, "shift": True, "mean": True, "follow": False},
    }


def test_a_sum_joins():
    def build(x):
        a = layers.Conv2D(4, 1, name="a")(x)
        b = layers.Conv2D(4, 3, padding="same", name="b")(a)
        return layers.Conv2D(2, 1, name="c")(a + b)

    assert groups(functional(build)) == {"a+b": (4, None), "c": (2, OUT)}


def test_a_concatenation_lines_up_and_a_repeated_one_doubles():
    def build(x):
        a, b = layers.Conv2D(4, 1, name="a")(x), layers.Conv2D(3, 1, name="b")(x)
        return layers.Conv2D(2, 1, name="c")(layers.Concatenate()([a, b, a]))

    model = functional(build)
    assert groups(model) == {"a": (4, None), "b": (3, None), "c": (2, OUT)}
    kernel = next(part for part in dependencies(model).parts if part.layer == "c" and part.axis == 2)
    assert kernel.units.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]


def test_a_concatenation_on_another_axis_joins():
    def build(x):
        a, b = layers.Conv2D(4, 1, name="a")(x), layers.Conv2D(4, 1, name="b")(x)
        return layers.Conv2D(2, 1, name="c")(layers.Concatenate(axis=2)([a, b]))

    assert groups(functional(build)) == {"a+b": (4, None), "c": (2, OUT)}


def test_grouped_convolutions_lose_the_same_place_of_each_group():
    model = stack(
        layers.Conv2D(8, 1, name="a"),
        layers.Conv2D(12, 3, groups=4, name="b"),
        layers.Flatten(),
        layers.Dense(2, name="c"),
    )
    found = dependencies(model)
    assert groups(model) == {"a": (2, None), "b": (3, None), "c": (2, OUT)}
    assert [group.width for group in found.groups] == [4, 4, 1]


def test_a_channel_shuffle_joins_the_halves():
    def build(x):
        h = layers.Conv2D(8, 1, name="a")(x)
        h = keras.ops.reshape(h, (-1, 8, 8, 2, 4))
        h = keras.ops.reshape(keras.ops.transpose(h, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
        return layers.Conv2D(2, 1, name="b")(h)

    assert groups(functional(build))["a"] == (4, None)


def test_heads_are_the_units_of_attention():
    def build(x):
        return layers.Dense(2, name="out")(layers.MultiHeadAttention(4, 3, name="attention")(x, x))

    model = functional(build, (5, 6))
    assert groups(model) == {"attention": (4, None), "attention#2": (6, None), "out": (2, OUT)}


def test_neurons_of_recurrent_layers():
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="a"), layers.Dense(2, name="b")])
    found = dependencies(model)
    kernel = next(part for part in found.parts if part.variable.name == "kernel" and part.layer == "a")
    assert kernel.units.tolist() == [0, 1, 2, 3] * 4
    assert groups(model) == {"a": (4, None), "b": (2, OUT)}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            layers.LayerNormalization(name="n"),
            "'n' (LayerNormalization) computes statistics over all of them",
        ),
        (
            layers.GroupNormalization(2, name="n"),
            "'n' (GroupNormalization) computes statistics over groups",
        ),
        (layers.Softmax(name="s"), "'s' compares them (softmax)"),
        (layers.Activation("softmax", name="s"), "'s' is the activation 'softmax'"),
        (lambda h: keras.ops.mean(h, axis=-1, keepdims=True), "computes over all of them"),
        (
            layers.Lambda(lambda t: t, output_shape=lambda s: s, name="mine"),
            "'mine' (Lambda) is a layer that no",
        ),
        (lambda h: h[..., 2::2], "takes some of them with steps of 2"),
        (layers.Permute((3, 1, 2), name="p"), "works across another axis than theirs"),
    ],
)
def test_what_compares_channels_keeps_them(build, reason):
    model = functional(lambda x: layers.Conv2D(2, 1, name="b")(build(layers.Conv2D(4, 1, name="a")(x))))
    size, protected = groups(model)["a"]
    assert size == 4
    assert reason in protected


@pytest.mark.parametrize("norm", [layers.LayerNormalization, lambda: layers.GroupNormalization(2)])
def test_inexact_lets_normalized_channels_go(norm):
    model = stack(layers.Conv2D(4, 1, name="a"), norm(), layers.Flatten(), layers.Dense(2))
    assert groups(model, exact=False)["a"][1] is None


def test_instance_normalization_is_exact():
    model = stack(layers.Conv2D(4, 1, name="a"), layers.GroupNormalization(-1), layers.Flatten(), layers.Dense(2))
    assert groups(model)["a"] == (4, None)


def test_layers_of_a_users_own_are_named():
    class Mine(layers.Layer):
        def __init__(self):
            super().__init__(name="mine")
            self.inner = layers.Dense(4)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return self.inner(x)

        def get_config(self):
            return {}

    found = dependencies(functional(lambda x: layers.Dense(2)(Mine()(layers.Dense(4, name="a")(x))), (3,)))
    assert found.refused == {"mine": "no rule knows what a Mine computes"}
    assert "'mine' (Mine) is a layer that no rule knows" in found.groups[0].protected
    assert "mine" in str(found)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            lambda: layers.Dense(4, activation=tf.nn.relu, name="a"),
            r"'a' has the activation 'relu' of tensorflow\..*, of which only its author knows whether it compares "
            "channels; Keras's own is activation='relu'",
        ),
        (
            lambda: layers.Dense(4, activation=mine, name="a"),
            "'a' has the activation 'mine' of .*test_dependencies, of which only its author knows whether it compares "
            "channels$",
        ),
        (
            lambda: layers.Dense(4, activation="softmax", name="a"),
            "'a' has the activation 'softmax', which may compare channels$",
        ),
        (
            lambda: layers.Activation(tf.nn.relu, name="b"),
            r"'b' is the activation 'relu' of tensorflow\..* Keras's own is activation='relu'",
        ),
        (layers.LeakyReLU, None),
    ],
)
def test_activations_of_others_are_told_from_those_that_compare(layer, reason):
    found = groups(functional(lambda x: layers.Dense(2)(layer()(layers.Dense(4)(x))), (3,)))
    reasons = [why for _, why in found.values() if why not in (None, OUT)]
    if reason is None:
        assert reasons == []
    else:
        assert len(reasons) == 1
        assert re.match(reason, reasons[0]), reasons[0]


def mine(x):
    return x * x


def test_channels_that_move_along_their_own_axis_stay():
    image = keras.Input((8, 8, 3))
    x = keras.ops.flip(layers.Conv2D(4, 1, name="a")(image), axis=-1)
    x = layers.Conv2D(5, 1, name="b")(x)
    found = groups(keras.Model(image, layers.Conv2D(2, 1)(keras.ops.tile(x, (2, 1, 1, 1)))))
    # Keras numbers the operations it names, so the names depend on the tests before this one.
    why = " moves places along their axis or the batch's"
    assert re.fullmatch(rf"'flip(_\d+)?' \(Flip\){why}", found["a"][1]), found["a"][1]
    assert re.fullmatch(rf"'tile(_\d+)?' \(Tile\){why}", found["b"][1]), found["b"][1]


def test_a_subclass_with_a_call_of_its_own_is_not_taken_for_its_base():
    class Mine(layers.Dense):
        def call(self, x):
            return super().call(x)[..., ::-1]

    found = dependencies(functional(lambda x: layers.Dense(2)(Mine(4, name="mine")(x)), (3,)))
    assert list(found.refused) == ["mine"]


def test_a_subclassed_model_is_refused():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(2)

        def call(self, x):
            return self.inner(x)

    model = Mine()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"expected a Sequential or functional model .* got Mine"):
        dependencies(model)


def test_protected_layers():
    model = stack(layers.Conv2D(4, 1, name="a"), layers.Conv2D(4, 1, name="b"), layers.Conv2D(4, 1))
    assert groups(model, protected=["a"])["a"] == (4, "protected by the user")
    assert groups(model, protected="a|b")["b"] == (4, "protected by the user")
    with pytest.raises(ValueError, match="expected names of layers with channels, got 'z'; there are a, b"):
        dependencies(model, protected=["z"])


@pytest.mark.parametrize(
    ("options", "kept"), [({}, 3), ({"minimum": 5}, 5), ({"round_to": 4}, 4), ({"round_to": 7}, 7)]
)
def test_keep(options, kept):
    model = stack(layers.Conv2D(10, 1, name="a"), layers.Conv2D(4, 1, name="b"))
    found = dependencies(model, **options)
    removed = np.zeros(found.num_units, bool)
    removed[found.groups[0].units[:7]] = True
    keep = found.keep(removed)
    assert keep[found.groups[0].units].sum() == kept
    assert keep[found.groups[0].units[7:]].all()
    scores = np.arange(found.num_units)
    best = found.keep(removed, scores)[found.groups[0].units]
    assert best[10 - kept :].all()


def test_the_last_unit_and_protected_ones_stay():
    found = dependencies(stack(layers.Conv2D(3, 1, name="a"), layers.Conv2D(4, 1, name="b")))
    assert found.keep(np.ones(found.num_units, bool)).tolist() == [True, False, False, True, True, True, True]


def test_zero_units_and_set_zero():
    model = stack(layers.Conv2D(3, 1, name="a"), layers.BatchNormalization(), layers.Conv2D(4, 1, name="b"))
    found = dependencies(model)
    assert not found.zero_units().any()
    removed = np.array([0, 1, 0, 0, 0, 0, 0], bool)
    found.set_zero(removed)
    assert found.zero_units().tolist() == removed.tolist()
    model.layers[1].beta.assign([0.0, 1e-30, 0.0])
    assert not found.zero_units().any()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize("name", ["round_to", "minimum"])
def test_wrong_numbers(name, number):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number >= 1"):
        dependencies(stack(layers.Conv2D(3, 1)), **{name: number})


def test_where_units_are_observed():
    model = stack(
        layers.Conv2D(3, 1, name="a"), layers.BatchNormalization(), layers.ReLU(name="r"), layers.Conv2D(4, 1, name="b")
    )
    site = dependencies(model).groups[0].sites[0]
    assert (site.path, site.axis, site.units.tolist()) == ("r", -1, [0, 1, 2])


def test_what_is_no_model_is_a_type_error():
    with pytest.raises(TypeError, match=r"expected a Keras 3 model \(keras.Model\), got 'model.keras'"):
        dependencies("model.keras")


def test_a_layer_of_keras_has_not_the_rule_of_what_it_is_derived_from():
    """A later Keras may bring one that computes otherwise, as `ReversibleEmbedding` is an `Embedding`."""
    newer = type("Newer", (layers.Dense,), {"__module__": "keras.src.layers.newer"})
    assert find_rule(newer(3)) is None
    own = type("Own", (layers.Dense,), {"__module__": "mine"})
    assert find_rule(own(3)) is find_rule(layers.Dense(3))
