"""Corners of models: what a shrunk model computes where constants, slices, shared and custom layers meet."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]
from keras import layers, ops

import keras_prune
from keras_prune.graph import dependencies


def vector(body, size=5, **options):
    """A model of vectors."""
    inputs = keras.Input((size,), **options)
    return keras.Model(inputs, body(inputs))


def sequence(body, **options):
    """A model of six steps of five numbers."""
    inputs = keras.Input((6, 5), **options)
    return keras.Model(inputs, body(inputs))


def image(body):
    """A model of small images."""
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, body(inputs))


def shared(*activations):
    """A layer with a bias that takes the same channels behind several activations."""
    last = layers.Dense(4)

    def body(x):
        x = layers.Dense(8)(x)
        return [last(layers.Activation(name)(x)) for name in activations]

    return vector(body)


def halves(join):
    """What joins both halves of a layer's channels."""
    return vector(lambda x: layers.Dense(3)(layers.Flatten()(join(*ops.split(layers.Dense(8)(x), 2, -1)))))


def stepped(taken):
    """Some of eight channels, by steps."""
    return image(lambda x: layers.Conv2D(3, 1)(layers.Conv2D(8, 1)(x)[..., taken]))


def even_times_odd(x):
    x = layers.Dense(8)(x)
    return layers.Dense(3)(x[:, ::2] * x[:, 1::2])


def sigmoid_map(behind):
    """Maps that are 0.5 where they are pruned, and a convolution that could take this into its bias."""
    return image(lambda x: layers.Conv2D(3, 2)(behind(layers.Conv2D(8, 1, activation="sigmoid")(x))))


def first_axis(x):
    a, b = ops.split(layers.Permute((2, 1))(layers.Dense(8)(x)), 2, 1)
    return layers.Dense(3)(layers.Flatten()(ops.concatenate([a, b], -1)))


def begun(activation):
    """A GRU that begins with channels of another layer."""

    def body(x):
        state = layers.Dense(8, activation=activation)(x[:, 0])
        return layers.Dense(3)(layers.GRU(8)(x, initial_state=state))

    return sequence(body)


def slices(x):
    x = layers.Conv2D(4, 1)(x)
    return [
        layers.Conv2D(3, 1)(x[..., :2]),
        layers.Dense(3)(ops.mean(x[..., 2:3], -1)),
        layers.Conv2D(2, 1)(x[..., 3:]),
    ]


def einsum(*free):
    """A product that is called with channels that may go and with the data."""
    product = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4))
    return sequence(lambda x: [product(layers.Dense(5)(x) if is_free else x) for is_free in free])


def permuted_einsum(x):
    x = layers.EinsumDense("abc,dec->adbe", output_shape=(4, None, 3), bias_axes="de")(x)
    return layers.EinsumDense("adbe,dec->abc", output_shape=(None, 5), bias_axes="c")(x)


class Standardized(layers.Conv2D):
    """Centres its kernel over its inputs, so that a missing one would change the others."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=[0, 1, 2], keepdims=True))


def average(x):
    x = layers.Dense(8)(x)
    return layers.Dense(3)(layers.Average()([layers.Activation(name)(x) for name in ("sigmoid", "relu", "tanh")]))


def constants_in_time(x):
    x = layers.Dense(8)(x)
    return layers.Dense(3)(ops.concatenate([layers.ReLU()(x), layers.Activation("sigmoid")(x)], 1))


def nested(outputs):
    """A functional model that is called twice, and what is made of both results."""
    inputs = keras.Input((8,))
    inner = keras.Model(inputs, layers.Dense(4)(layers.Dense(6)(inputs)))
    return vector(lambda x: outputs(inner(layers.Dense(8)(x)), inner(layers.Dense(8)(x))))


def with_constant(join):
    """Channels and an array of the program."""
    return vector(lambda x: layers.Dense(3)(join(layers.Dense(8)(x))), batch_size=checks.BATCH)


# name -> (model, how many units may go)
CASES = {
    "one bias, other constants": (lambda: shared("relu", "sigmoid"), 0),
    "one bias, the constants first": (lambda: shared("sigmoid", "relu"), 0),
    "one bias, the same constants": (lambda: shared("sigmoid", "sigmoid"), 8),
    "average of three": (lambda: vector(average), 8),
    "constants beside zeros in time": (lambda: sequence(constants_in_time), 0),
    "steps of 2": (lambda: stepped(slice(None, None, 2)), 4),
    "steps of 3 from the second on": (lambda: stepped(slice(1, None, 3)), 3),
    "steps of 3 backwards": (lambda: stepped(slice(None, None, -3)), 3),
    "backwards": (lambda: stepped(slice(None, None, -1)), 8),
    "backwards from the first": (lambda: stepped(slice(0, None, -1)), 0),
    "steps of 2 from the third on": (lambda: stepped(slice(2, None, 2)), 0),
    "steps of 2 to the sixth": (lambda: stepped(slice(None, 6, 2)), 0),
    "even and odd": (lambda: vector(even_times_odd), 4),
    "places by steps": (lambda: image(lambda x: layers.Conv2D(3, 1)(layers.Conv2D(8, 1)(x)[:, ::2, ::-1])), 8),
    "axes exchanged": (
        lambda: image(
            lambda x: layers.Dense(3)(layers.Flatten()(ops.moveaxis(ops.swapaxes(layers.Conv2D(8, 1)(x), 1, 3), 1, -2)))
        ),
        8,
    ),
    "a constant beside zeros": (lambda: sigmoid_map(lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 2]])), 0),
    "a constant beside a frame": (lambda: sigmoid_map(layers.Resizing(5, 3, pad_to_aspect_ratio=True)), 0),
    "a maximum with a number": (
        lambda: sequence(lambda x: layers.Dense(3)(ops.max(layers.Dense(8)(x), 1, initial=1.0))),
        0,
    ),
    "norm of constants": (
        lambda: vector(lambda x: layers.Dense(3)(layers.UnitNormalization()(layers.Dense(8, activation="sigmoid")(x)))),
        0,
    ),
    "a state of zeros": (lambda: begun("relu"), 8),
    "a state of constants": (lambda: begun("sigmoid"), 0),
    "a nested model's result is the output": (lambda: nested(lambda a, b: a), 8 + 6),
    "the first of its results is an output": (lambda: nested(lambda a, b: [a, layers.Dense(3)(b)]), 8 + 6),
    "the second of its results is an output": (lambda: nested(lambda a, b: [layers.Dense(3)(a), b]), 8 + 6),
    "none of its results is an output": (lambda: nested(lambda a, b: layers.Dense(3)(a - b)), 8 + 6 + 4),
    "times ones": (lambda: with_constant(lambda x: x * np.ones(8, "float32")), 0),
    "plus ones": (lambda: with_constant(lambda x: x + ops.ones((8,))), 0),
    "plus one": (lambda: with_constant(lambda x: x + ops.ones((1,))), 8),
    "beside ones": (
        lambda: with_constant(lambda x: ops.concatenate([x, np.ones((checks.BATCH, 2), "float32")], -1)),
        0,
    ),
    "stacked on ones": (lambda: with_constant(lambda x: ops.stack([x, np.ones((checks.BATCH, 8), "float32")], 1)), 0),
    "halves stacked": (lambda: halves(lambda a, b: ops.stack([a, b], -1)), 4),
    "halves of the first axis": (lambda: sequence(first_axis), 4),
    "slices that could be empty": (lambda: image(slices), 3),
    "a vector plus a sequence": (
        lambda: sequence(
            lambda x: layers.Dense(3)(layers.Flatten()(layers.Add()([layers.Dense(8)(x[:, 0]), layers.Dense(8)(x)])))
        ),
        8,
    ),
    "attention with two axes of outputs": (
        lambda: sequence(
            lambda x: layers.Dense(3)(layers.Flatten()(layers.MultiHeadAttention(4, 3, output_shape=(4, 5))(x, x)))
        ),
        0,
    ),
    "all axes of length 1": (lambda: image(lambda x: layers.Dense(3)(ops.squeeze(layers.Conv2D(8, (1, 4))(x)))), 8),
    "a shared product": (lambda: einsum(False, True), 0),
    "a shared product, free first": (lambda: einsum(True, False), 0),
    "a product with a bias of two axes": (lambda: sequence(permuted_einsum), 4),
    "a layer with another kernel": (lambda: image(lambda x: Standardized(4, 3)(layers.Conv2D(8, 1)(x))), 0),
}


def shrunk(model, seed):
    """The model with random weights and zeros in random units, up to all of a group; and shrunk."""
    checks.randomize(model, seed)
    deps = dependencies(model)
    rng = np.random.default_rng(seed)
    removed = np.zeros(deps.num_units, bool)
    for group in deps.free:
        removed[group.units] = rng.random(len(group.units)) < rng.choice([0.4, 0.7, 1.0])
    deps.set_zero(removed)
    return keras_prune.shrink(model)


def check_same(model, small):
    x = checks.random_inputs(model)
    assert checks.difference(checks.outputs(small, x), checks.outputs(model, x)) <= checks.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_shrunk_models_compute_the_same(name):
    build, units = CASES[name]
    keras.utils.set_random_seed(0)
    for seed in range(3):
        model = build()
        deps = dependencies(model)
        assert sum(len(group.units) for group in deps.free) == units, str(deps)
        check_same(model, shrunk(model, seed))


def test_weights_that_began_as_arrays():
    """Word vectors, for example: their array has the sizes of before."""

    def given(*shape):
        return keras.initializers.Constant(np.ones(shape, "float32"))

    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, embeddings_initializer=given(20, 8))(inputs)
    x = layers.GRU(6, bias_initializer=keras.initializers.Constant(0.5))(x)
    x = layers.BatchNormalization(gamma_initializer=given(6))(layers.Dense(6, bias_initializer=given(6))(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    small = shrunk(model, 0)
    assert small.layers[1].output_dim < 8
    check_same(model, small)
    assert small.layers[2].get_config()["bias_initializer"] == model.layers[2].get_config()["bias_initializer"]
    keras.models.clone_model(small)


def doubled(x):
    return 2 * ops.relu(x)


OWN = {
    "an activation": lambda x: layers.Dense(7)(layers.Dense(8, activation=doubled)(x)),
    "a layer's activation": lambda x: layers.Dense(7)(layers.Activation(doubled)(layers.Dense(8)(x))),
    "a lambda": lambda x: layers.Dense(7)(
        layers.Lambda(lambda y: 2 * ops.relu(y), output_shape=(8,))(layers.Dense(8)(x))
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_functions_of_the_users_own_need_no_registration(name):
    model = vector(lambda x: layers.Dense(3)(OWN[name](x)))
    check_same(model, shrunk(model, 0))


def test_two_classes_of_one_name_are_refused():
    def times(factor):
        class Times(keras.Layer):
            def call(self, x):
                return x * factor

        return Times()

    model = vector(lambda x: layers.Dense(3)(times(3)(times(2)(layers.Dense(8)(x)))))
    with pytest.raises(ValueError, match="got two with the name 'Times'"):
        keras_prune.shrink(model)


class Outer(keras.Model):
    """Computes more than its layers."""

    def call(self, x, training=None, mask=None):
        return super().call(x) + 1


def test_a_functional_model_with_its_own_call_is_refused():
    inputs = keras.Input((5,))
    with pytest.raises(ValueError, match=r"got Outer .*only its code knows"):
        keras_prune.shrink(Outer(inputs, layers.Dense(3)(inputs)))


@pytest.mark.parametrize("optimizer", ["adafactor", "adam"])
@pytest.mark.parametrize("freeze", [False, True])
def test_optimizers_go_on(optimizer, freeze):
    """Also where sums over channels cannot be carried over, and with a layer frozen since."""
    model = vector(lambda x: layers.Dense(3)(layers.Dense(8)(x)))
    model.compile(optimizer, "mse")
    x, y = np.ones((4, 5), "float32"), np.ones((4, 3), "float32")
    model.fit(x, y, verbose=0)
    model.layers[1].trainable = not freeze
    small = shrunk(model, 1)
    check_same(model, small)
    assert int(small.optimizer.iterations) == 1
    small.fit(x, y, verbose=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras when it quantizes
def test_adapted_and_quantized_layers_stay():
    model = vector(lambda x: layers.Dense(3)(layers.Dense(6)(layers.Dense(8)(x))))
    model.layers[1].enable_lora(2)
    assert [len(group.units) for group in dependencies(model).free] == [6]
    model = vector(lambda x: layers.Dense(3)(layers.Dense(6)(layers.Dense(8)(x))))
    model.layers[2].quantize("int8")
    assert [len(group.units) for group in dependencies(model).free] == []


@pytest.mark.parametrize("group", ['["a", 3, [1, 1]]', '["a", 3, [2, 1]]', '["a", 3, [0, 1, 2]]', '["a", -1, []]'])
def test_histories_of_no_removal_are_refused(group, tmp_path):
    path = tmp_path / "history.json"
    path.write_text(f'{{"version": 1, "rounds": [[{group}]]}}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected a file written by save"):
        keras_prune.ShrinkHistory.load(path)
