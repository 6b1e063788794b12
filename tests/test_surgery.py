"""prune and strip."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.allocation import Global
from keras_prune.masks import mask_constraint
from keras_prune.surgery import prune, strip

pytestmark = pytest.mark.usefixtures("seeded")
X = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")


def small(constraint=None, **compile_options):
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(20, activation="relu", kernel_constraint=constraint, name="first"),
            layers.Dense(4, name="last"),
        ]
    )
    model.compile("adam", "mse", **compile_options)
    return model


def zeros(model):
    return [int((v.numpy() == 0).sum()) for v in model.trainable_variables if len(v.shape) == 2]


def test_prune_keeps_the_largest_in_place():
    model = small()
    before = model.get_weights()[0]
    assert prune(model, 0.9) is model
    assert zeros(model) == [180, 72]
    after = model.get_weights()[0]
    kept = after != 0
    assert (after[kept] == before[kept]).all()
    assert np.abs(before[kept]).min() >= np.abs(before[~kept]).max()


@pytest.mark.parametrize("fitted", [False, True])
def test_masks_survive_later_training(fitted):
    model = small()
    if fitted:
        model.fit(X, Y, verbose=0)
    prune(model, 0.8)
    pruned = model.weights[0].numpy() == 0
    before = model.get_weights()[0]
    model.fit(X, Y, verbose=0)
    model.train_on_batch(X, Y)
    after = model.get_weights()[0]
    assert zeros(model) == [160, 64]
    assert ((after == 0) == pruned).all()
    assert (after[~pruned] != before[~pruned]).any()


def test_prune_twice_raises_the_sparsity():
    model = prune(prune(small(), 0.5), 0.8)
    assert zeros(model) == [160, 64]


def test_prune_by_layer_allocation_criterion():
    assert zeros(prune(small(), 0.5, layers="last")) == [0, 40]
    assert zeros(prune(small(), 0.5, layers=lambda v: "first" in v.path)) == [100, 0]
    assert zeros(prune(small(), 0.5, allocation={"first": 0.9})) == [180, 40]
    assert sum(zeros(prune(small(), 0.5, allocation=Global()))) == 140
    assert zeros(prune(small(), 0.0)) == [0, 0]
    model = prune(small(), 0.5, criterion=lambda w: np.broadcast_to(np.arange(w.shape[1]), w.shape).astype("float32"))
    assert (model.weights[0].numpy()[:, :10] == 0).all()


def test_strip_gives_the_users_constraints_back():
    constraint = keras.constraints.NonNeg()
    model = prune(small(constraint), 0.8)
    assert model.weights[0].constraint.inner is constraint
    model.fit(X, Y, verbose=0)
    assert strip(model) is model
    assert model.weights[0].constraint is constraint
    assert model.weights[2].constraint is None
    zeros_at_strip = zeros(model)
    assert zeros_at_strip[1] == 64
    model.fit(X, Y, verbose=0)  # compiled anew, without masks: zeros fill
    assert zeros(model)[1] < 64


def test_strip_bakes_masks_into_weights_that_were_set():
    model = prune(small(), 0.8)
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    assert zeros(strip(model)) == [160, 64]
    assert strip(small()) is not None  # a model without masks stays as it is


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own saving on NumPy 2
def test_pruned_model_saves_and_loads_as_a_plain_one(tmp_path):
    model = prune(small(keras.constraints.MaxNorm(2.0)), 0.8)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert zeros(loaded) == [160, 64]
    assert np.allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert isinstance(loaded.weights[0].constraint, keras.constraints.MaxNorm)
    assert mask_constraint(loaded.weights[0]) is None
    assert zeros(prune(loaded, 0.8)) == [160, 64]  # the same zeros: they have the lowest scores


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: prune(small(), 1.5), ValueError, r"sparsity: expected a sparsity.*got 1\.5; for 80 % zeros give 0\.8"),
        (lambda: prune(small(), 80), ValueError, r"got 80"),
        (
            lambda: prune(small(), 0.5, layers="middle"),
            ValueError,
            r"got 'middle'; this model has: first/kernel, last/kernel",
        ),
        (lambda: prune(small(), 0.5, allocation={"x": 0.5}), ValueError, r"PerLayer: expected names.*got 'x'"),
        (lambda: prune(small(), 0.5, criterion="size"), ValueError, r"criterion: expected one of"),
        (lambda: prune("model.keras", 0.5), TypeError, r"expected a Keras 3 model.*got builtins\.str"),
        (lambda: strip(None), TypeError, r"expected a Keras 3 model"),
        (lambda: prune(keras.Sequential([layers.Dense(3)]), 0.5), ValueError, r"not built yet; call it on a batch"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_diverged_weights_are_reported():
    model = small()
    model.weights[0].assign(np.full((10, 20), np.nan))
    with pytest.raises(ValueError, match="got NaN; training has probably diverged"):
        prune(model, 0.5)
