"""Removal of units without inputs or outputs: the same outputs from a smaller model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.cleanup import remove_dead_units
from keras_prune.masks import prunable
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune
from keras_prune.wrappers import wrap

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)


def randomize(model):
    """Biases, scales and statistics that are not zero or one."""
    for variable in model.weights:
        values = RNG.normal(size=variable.shape).astype("float32")
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return model


def kill(model, name, *, inputs=(), outputs=()):
    """Cuts units of a layer off from their inputs, and input channels of a layer off from its units."""
    kernel = model.get_layer(name).kernel
    values = kernel.numpy()
    values[..., list(inputs)] = 0
    values[..., list(outputs), :] = 0
    kernel.assign(values)


def check(model, x):
    """The smaller model, after comparing outputs."""
    smaller = remove_dead_units(model)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(smaller.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    return smaller


def shapes(model):
    return [tuple(variable.shape) for variable in prunable(model).values()]


def dense(activation="sigmoid", **options):
    stack = [layers.Dense(8, activation, name="a"), layers.Dropout(0.5), layers.Dense(6, "relu", name="b", **options)]
    return randomize(keras.Sequential([keras.Input((5,)), *stack, layers.Dense(3, "softmax", name="c")]))


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid", "gelu", "elu"])
def test_dense(activation, use_bias):
    model = dense(activation, use_bias=use_bias)
    kill(model, "a", inputs=[1, 4])
    kill(model, "b", outputs=[0, 4, 7])
    smaller = check(model, RNG.normal(size=(16, 5)))
    assert shapes(smaller) == [(5, 4), (4, 6), (6, 3)]
    assert smaller.get_layer("b").use_bias


def test_it_goes_on_until_nothing_is_dead():
    model = dense("relu")
    kill(model, "c", outputs=[0, 1, 2])  # units of b
    b = model.get_layer("b").kernel.numpy()
    b[:4, 3:] = 0  # units of a that only these read
    model.get_layer("b").kernel.assign(b)
    assert shapes(check(model, RNG.normal(size=(16, 5)))) == [(5, 4), (4, 3), (3, 3)]
    model = dense("relu")
    kill(model, "a", inputs=range(4))
    b = model.get_layer("b").kernel.numpy()
    b[4:, 5] = 0  # a unit that reads constants only
    model.get_layer("b").kernel.assign(b)
    assert shapes(check(model, RNG.normal(size=(16, 5)))) == [(5, 4), (4, 5), (5, 3)]


def test_a_layer_keeps_one_unit():
    model = dense()
    kill(model, "a", inputs=range(8))
    assert shapes(check(model, RNG.normal(size=(16, 5)))) == [(5, 1), (1, 1), (1, 3)]
    model = dense()
    kill(model, "b", outputs=range(8))
    assert shapes(check(model, RNG.normal(size=(16, 5)))) == [(5, 1), (1, 1), (1, 3)]


def conv(padding="valid", pooling=layers.MaxPooling2D):
    stack = [
        layers.Conv2D(6, 3, padding=padding, name="a"),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        pooling(2),
        layers.Conv2D(4, 2, padding=padding, activation="tanh", name="b"),
        layers.BatchNormalization(scale=False),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(3, name="c"),
    ]
    return randomize(keras.Sequential([keras.Input((9, 9, 2)), *stack]))


@pytest.mark.parametrize("pooling", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_convolutions(pooling):
    model = conv(pooling=pooling)
    kill(model, "a", inputs=[0, 5])
    kill(model, "b", inputs=[2], outputs=[0, 3])
    c = model.get_layer("c").kernel.numpy().reshape(-1, 4, 3)
    c[:, 1] = 0
    model.get_layer("c").kernel.assign(c.reshape(-1, 3))
    smaller = check(model, RNG.normal(size=(8, 9, 9, 2)))
    assert shapes(smaller) == [(3, 3, 2, 3), (2, 2, 3, 2), (2 * len(c), 3)]
    assert [tuple(w.shape) for w in smaller.layers[1].weights] == [(3,)] * 4


def test_a_constant_stays_before_zero_padding_unless_it_is_zero():
    model = conv("same")
    kill(model, "a", inputs=[0, 1])
    norm = model.layers[1]
    beta, mean, bias = norm.beta.numpy(), norm.moving_mean.numpy(), model.layers[0].bias.numpy()
    bias[:2] = mean[:2]
    beta[:2] = -1, 1  # relu makes a zero of the first
    norm.beta.assign(beta)
    model.layers[0].bias.assign(bias)
    assert shapes(check(model, RNG.normal(size=(8, 9, 9, 2))))[0] == (3, 3, 2, 5)


def test_one_dimensional_and_global_pooling():
    stack = [layers.Conv1D(5, 3, name="a"), layers.LeakyReLU(), layers.GlobalAveragePooling1D()]
    model = randomize(keras.Sequential([keras.Input((8, 2)), *stack, layers.Dense(3, name="c")]))
    kill(model, "a", inputs=[1, 2])
    kill(model, "c", outputs=[2, 4])
    assert shapes(check(model, RNG.normal(size=(8, 8, 2)))) == [(3, 2, 2), (2, 3)]


def functional():
    inputs = keras.Input((5,))
    x = layers.Dense(6, "relu", name="a")(inputs)
    x = layers.Dense(5, name="b")(layers.Dense(4, "tanh", name="inner")(x))
    y = layers.Add(name="sum")([x, inputs]) + 1.0
    return randomize(keras.Model(inputs, {"one": layers.Dense(2, name="c")(y), "two": y}))


def test_functional_models():
    model = functional()
    kill(model, "a", inputs=[3])
    kill(model, "inner", inputs=[0], outputs=[1])
    smaller = remove_dead_units(model)
    assert shapes(smaller) == [(5, 4), (4, 3), (3, 5), (5, 2)]
    x = RNG.normal(size=(8, 5))
    for name, value in model.predict(x, verbose=0).items():
        np.testing.assert_allclose(smaller.predict(x, verbose=0)[name], value, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_traced_is_named():
    model = functional()
    kill(model, "b", inputs=[3])
    kill(model, "a", inputs=[1])
    with pytest.raises(ValueError, match=r"got 'b' \(followed by 'sum', which is not one layer.*give layers=\.\.\. "):
        remove_dead_units(model)
    assert shapes(remove_dead_units(model, layers=["a", "inner"]))[0] == (5, 5)
    stack = [layers.Dense(4, "softmax", name="a"), layers.Dense(4, name="b"), layers.LayerNormalization(name="norm")]
    model = randomize(keras.Sequential([keras.Input((5,)), *stack, layers.Dense(3, name="c")]))
    kill(model, "a", inputs=[3])
    kill(model, "b", inputs=[3])
    with pytest.raises(ValueError, match=r"'a' \(followed by activation 'softmax'\); 'b' \(followed by 'norm', Layer"):
        remove_dead_units(model)


def test_shared_layers_are_left_alone():
    shared = layers.Dense(5, name="shared")
    inputs = keras.Input((5,))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="out")(shared(shared(inputs)))))
    assert shapes(check(model, RNG.normal(size=(8, 5)))) == [(5, 5), (5, 2)]
    kill(model, "shared", inputs=[1])
    with pytest.raises(ValueError, match="'shared'"):
        remove_dead_units(model)


def test_masks_are_carried_over_and_training_goes_on():
    model = prune(dense("relu"), 0.5)
    kill(model, "a", inputs=[0])
    model.compile("adam", "mse")
    smaller = check(model, RNG.normal(size=(16, 5)))
    assert smaller is not model
    masks = [v.constraint.mask.numpy() for v in prunable(smaller).values()]
    np.testing.assert_array_equal(masks[0], model.layers[0].kernel.constraint.mask.numpy()[:, 1:])
    x, y = RNG.normal(size=(16, 5)), RNG.normal(size=(16, 3))
    smaller.fit(x, y, verbose=0)
    for variable, mask in zip(prunable(smaller).values(), masks, strict=True):
        assert (variable.numpy()[mask == 0] == 0).all()


def test_pruned_channels_with_their_normalization():
    stack = [layers.Conv2D(8, 3, padding="same", name="a"), layers.BatchNormalization(), layers.ReLU()]
    last = [layers.Conv2D(4, 3, padding="same", name="b"), layers.GlobalAveragePooling2D(), layers.Dense(2, name="c")]
    model = randomize(keras.Sequential([keras.Input((6, 6, 2)), *stack, *last]))
    prune(model, 0.5, pattern="channel", layers=["a", "b"])
    smaller = check(model, RNG.normal(size=(4, 6, 6, 2)))
    assert shapes(smaller) == [(3, 3, 2, 4), (3, 3, 4, 2), (2, 2)]
    masks = {v.path.split("/", 1)[1]: v.constraint.mask.numpy().all() for v in smaller.weights if v.constraint}
    assert list(masks.values()) == [True] * 6  # two kernels, their biases, gamma and beta: all that is left is kept


class Doubled(layers.Conv2D):
    """A user's own convolution: units without inputs give no constant."""

    def call(self, x):
        return super().call(x) + keras.ops.mean(x, axis=-1, keepdims=True)[:, 1:-1, 1:-1]


def test_a_users_own_convolution_is_left_alone():
    model = randomize(
        keras.Sequential([keras.Input((6, 6, 2)), Doubled(3, 3, name="own"), layers.Conv2D(2, 1, name="b")])
    )
    kill(model, "own", inputs=[1])
    assert shapes(check(model, RNG.normal(size=(4, 6, 6, 2)))) == [(3, 3, 2, 3), (1, 1, 3, 2)]


def test_after_pruning_a_real_training():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(40, "relu"), layers.Dense(40, "relu"), layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = RNG.normal(size=(64, 8)).astype("float32")
    callback = PruneCallback(ConstantSparsity(0.96, frequency=1))
    model.fit(x, x[:, :2], epochs=4, verbose=0, callbacks=[callback])
    smaller = check(model, x)
    assert smaller.count_params() < 0.7 * model.count_params()
    again = remove_dead_units(smaller)
    assert shapes(again) == shapes(smaller)


def test_wrapped_and_subclassed_models_are_refused():
    with pytest.raises(ValueError, match=r"expected plain layers, got Prune wrappers; call keras_prune\.strip"):
        remove_dead_units(wrap(dense()))

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="expected a Sequential or functional model, got Subclassed"):
        remove_dead_units(Subclassed())
