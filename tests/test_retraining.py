"""Around pruning: rewinding, dropout, regularizers."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.dropout import rescale_dropout
from keras_prune.masks import prunable
from keras_prune.regularizers import set_regularizer
from keras_prune.rewinding import reinitialize, rewind
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune
from keras_prune.wrappers import wrap

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:__array__ implementation")]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
IMAGES = RNG.normal(size=(32, 6, 6, 1)).astype("float32")
LABELS = RNG.integers(0, 3, size=32)


def dense():
    stack = [
        layers.Dense(8, "relu", name="hidden"),
        layers.BatchNormalization(),
        layers.Dense(3, "softmax", name="out"),
    ]
    model = keras.Sequential([keras.Input((6,)), *stack])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def fit(model, x=X, **options):
    return model.fit(x, LABELS, **{"batch_size": 8, "epochs": 1, "verbose": 0, **options})


def kernels(model):
    return [variable.numpy() for variable in prunable(model).values()]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("source", ["list", "list with masks", "dict", "file"])
def test_rewind_gives_survivors_their_earlier_values(tmp_path, wrapped, source):
    model = wrap(dense()) if wrapped else dense()
    plain = [v for v in model.weights if v.dtype != "uint8"]
    early = [v.numpy() for v in plain]
    given = {
        "list": early,
        "list with masks": model.get_weights(),
        "dict": {v.path.removeprefix(f"{model.name}/"): v.numpy() for v in plain},
        "file": tmp_path / "early.weights.h5",
    }[source]
    model.save_weights(tmp_path / "early.weights.h5")
    fit(model, callbacks=[PruneCallback(ConstantSparsity(0.5))])
    masks = [v.constraint.mask.numpy() for v in prunable(model).values()]
    assert rewind(model, given) is model
    for variable, value in zip(plain, early, strict=True):
        mask = 1 if variable.constraint is None else variable.constraint.mask.numpy()
        np.testing.assert_array_equal(variable.numpy(), value * mask)
    for variable, mask in zip(prunable(model).values(), masks, strict=True):
        np.testing.assert_array_equal(variable.constraint.mask.numpy(), mask)
        assert 0 < mask.sum() < mask.size
    fit(model)
    assert all((w[m == 0] == 0).all() for w, m in zip(kernels(model), masks, strict=True))


def test_rewind_says_what_does_not_fit():
    model = dense()
    with pytest.raises(ValueError, match=r"expected 8 arrays.*got 1"):
        rewind(model, [np.zeros(3)])
    with pytest.raises(ValueError, match=r"expected weights of the model: hidden/kernel.*got \['other'\]"):
        rewind(model, {"other": np.zeros(3)})
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"expected out/kernel of shape \(8, 3\), got \(3,\)"):
        rewind(model, {"hidden/kernel": np.zeros((6, 8)), "out/kernel": np.zeros(3)})
    np.testing.assert_array_equal(model.get_weights()[0], before[0])  # all or none


@pytest.mark.parametrize("wrapped", [False, True])
def test_reinitialize_gives_fresh_values_by_seed(wrapped):
    model = prune(wrap(dense()) if wrapped else dense(), 0.5)
    fit(model)
    before, state = kernels(model), random.getstate()
    reinitialize(model, 1)
    first = kernels(model)
    reinitialize(model, 2)
    second = kernels(model)
    reinitialize(model, 1)
    assert random.getstate() == state
    for old, a, b, again in zip(before, first, second, kernels(model), strict=True):
        np.testing.assert_array_equal(a, again)
        np.testing.assert_array_equal(old != 0, a != 0)
        kept = old != 0
        assert (a[kept] != b[kept]).all()
        assert (a[kept] != old[kept]).all()
    norm = model.layers[1].layer if hasattr(model.layers[1], "layer") else model.layers[1]
    assert not norm.moving_mean.numpy().any()


def test_reinitialize_leaves_what_has_adapted_to_the_data(tmp_path):
    scale = layers.Normalization(name="scale")
    scale.adapt(X * 5 + 3)
    model = prune(keras.Sequential([keras.Input((6,)), scale, layers.Dense(3, name="out")]), 0.5)
    before = model.get_weights()
    reinitialize(model, 1)
    for old, new in zip(before[:3], model.get_weights(), strict=False):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(before[-2], model.get_weights()[-2])


def test_reinitialize_other_layers():
    inner = keras.Sequential([keras.Input((4, 3)), layers.Bidirectional(layers.LSTM(2, return_sequences=True))])
    inputs = keras.Input((4, 3))
    x = inner(inputs)
    model = prune(keras.Model(inputs, layers.MultiHeadAttention(1, 2)(x, x)), 0.5)
    before = kernels(model)
    reinitialize(model, 0)
    for old, new in zip(before, kernels(model), strict=True):
        assert ((old != 0) == (new != 0)).all()
        assert (old != new).any()


def dropout_model():
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.SpatialDropout2D(0.2, name="first")(layers.ReLU()(x))
    x = layers.Dense(10, name="dense")(layers.Flatten()(x))
    y = layers.Dense(10, name="other")(layers.Flatten()(layers.Dropout(0.1, name="of the input")(inputs)))
    x = layers.Dropout(0.5, name="second")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


@pytest.mark.parametrize("wrapped", [False, True])
def test_dropout_shrinks_with_the_square_root_of_the_connections(wrapped):
    model = wrap(dropout_model()) if wrapped else dropout_model()
    assert rescale_dropout(model) == {"first": 0.2, "of the input": 0.1, "second": 0.5}
    prune(model, 0.75, allocation={"dense": 0.9, "other": 0.8})
    connections = (64 + 72) / (640 + 360)
    expected = {"first": 0.2 * 0.25**0.5, "of the input": 0.1, "second": 0.5 * connections**0.5}
    assert rescale_dropout(model) == pytest.approx(expected, rel=1e-12)
    assert rescale_dropout(model) == pytest.approx(expected, rel=1e-12)
    assert model.get_layer("second").rate == expected["second"]
    assert rescale_dropout(model, {"second": 0.4})["second"] == pytest.approx(0.4 * connections**0.5)
    with pytest.raises(ValueError, match=r"expected names of dropout layers: .*got \['dense'\]"):
        rescale_dropout(model, {"dense": 0.4})
    with pytest.raises(ValueError, match=r"rates\['second'\]: expected a rate in \[0, 1\), got 1.5"):
        rescale_dropout(model, {"second": 1.5})


def test_dropout_in_and_behind_nested_models():
    body = keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(4, 3, name="conv"), layers.Flatten()], name="body")
    inner = keras.Sequential([keras.Input((64,)), layers.Dropout(0.2, name="in"), layers.Dense(10, name="dense")])
    head = keras.Sequential([inner, layers.Dropout(0.4, name="behind"), layers.Dense(3, name="out")], name="head")
    model = keras.Sequential([keras.Input((6, 6, 1)), body, layers.Dropout(0.5, name="between"), head])
    prune(model, 0.75, allocation={"dense": 0.9})
    expected = {"between": 0.5 * 0.25**0.5, "in": 0.2 * 0.25**0.5, "behind": 0.4 * 0.1**0.5}
    assert rescale_dropout(model) == pytest.approx(expected)


def test_a_new_rate_takes_effect_in_training():
    model = keras.Sequential([keras.Input((100,)), layers.Dense(400, name="a"), layers.Dropout(0.8)])
    model.layers[0].kernel.assign(np.ones((100, 400)))
    prune(model, 0.99)
    rate = rescale_dropout(model)[model.layers[1].name]
    assert rate == pytest.approx(0.08)
    dropped = (np.asarray(model.layers[1](np.ones((4, 10000)), training=True)) == 0).mean()
    assert dropped == pytest.approx(0.08, abs=0.01)


def test_regularizers_change_between_phases():
    model = dense()
    fit(model)
    assert model.losses == []
    weights = kernels(model)
    set_regularizer(model, "l1")
    assert float(sum(model.losses)) == pytest.approx(0.01 * sum(np.abs(w).sum() for w in weights), rel=1e-5)
    set_regularizer(model, keras.regularizers.L2(0.5), layers="out")
    expected = 0.01 * np.abs(weights[0]).sum() + 0.5 * np.square(weights[1]).sum()
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    set_regularizer(model, None)
    assert model.losses == []


def test_a_regularizer_is_in_the_next_evaluation():
    model = dense()
    before = model.evaluate(X, LABELS, verbose=0)
    set_regularizer(model, keras.regularizers.L2(0.5))
    penalty = 0.5 * sum(np.square(w).sum() for w in kernels(model))
    assert model.evaluate(X, LABELS, verbose=0) == pytest.approx(before + penalty, rel=1e-5)


def test_a_regularizer_is_in_the_next_step():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    zeros = np.zeros((8, 6), "float32"), np.zeros((8, 3), "float32")
    model.fit(*zeros, verbose=0)
    before = model.get_weights()[0]
    set_regularizer(model, keras.regularizers.L2(0.5))
    model.fit(*zeros, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], before * 0.9, rtol=1e-6)
    set_regularizer(model, None)
    model.fit(*zeros, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], before * 0.9, rtol=1e-6)
