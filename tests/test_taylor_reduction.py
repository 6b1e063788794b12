"""Taylor's sum over the map: the change of the loss itself, compared between layers as it is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_prune
from keras_prune.criteria import Taylor

X = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 16).astype(np.int32)
GLOBAL = {"pattern": keras_prune.Channel(), "allocation": "global", "data": (X, Y)}


def made() -> keras.Model:
    """Maps of 36 places, and a dense layer beside them, whose maps have one, and which says little."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((6, 6, 2))
    maps = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="maps")(x)
    places = keras.layers.Dense(8, activation="relu", name="places")(keras.layers.Flatten()(x))
    joined = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(maps), 0.1 * places])
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(joined))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def by_hand(model: keras.Model) -> np.ndarray:
    """Mean over the examples of ``|sum over the map of z * dC/dz|``, of all units."""
    maps, places, out = (model.get_layer(name) for name in ("maps", "places", "out"))
    z, h = maps(X), places(X.reshape(16, -1))
    with tf.GradientTape() as tape:
        tape.watch([z, h])
        logits = out(tf.concat([tf.reduce_mean(z, (1, 2)), 0.1 * h], 1))
        losses = keras.losses.sparse_categorical_crossentropy(Y, logits, from_logits=True)
    of_z, of_h = tape.gradient(losses, [z, h])
    return np.concatenate([np.abs((z * of_z).numpy().sum((1, 2))).mean(0), np.abs((h * of_h).numpy()).mean(0)])


def kept(model: keras.Model) -> np.ndarray:
    """Which units have weights that are not zero."""
    kernels = [model.get_layer(name).kernel.numpy() for name in ("maps", "places")]
    return np.concatenate([kernel.any(axis=tuple(range(kernel.ndim - 1))) for kernel in kernels])


def test_the_units_with_the_smallest_change_of_the_loss_go():
    model = made()
    scores = by_hand(model)
    keras_prune.prune(model, 5 / 14, criterion=Taylor(reduction="sum"), **GLOBAL)
    wanted = np.ones(14, bool)
    wanted[np.argsort(scores)[:5]] = False
    np.testing.assert_array_equal(kept(model), wanted)
    other = keras_prune.prune(made(), 5 / 14, criterion=Taylor(), **GLOBAL)
    assert (kept(other) != wanted).any()  # each layer's scores by their norm


def test_a_cost_is_taken_off_scores_by_their_norm():
    pruned = [
        kept(
            keras_prune.prune(
                made(), 5 / 14, criterion=keras_prune.Regularized(Taylor(reduction), cost="flops"), **GLOBAL
            )
        )
        for reduction in ("mean", "sum")
    ]
    np.testing.assert_array_equal(*pruned)


@pytest.mark.parametrize("pattern", ["unstructured", keras_prune.Channel()])
def test_both_rank_the_weights_and_units_of_a_layer_alike(pattern):
    pruned = [
        keras_prune.prune(made(), 0.5, criterion=Taylor(reduction), pattern=pattern, data=(X, Y)).get_weights()
        for reduction in ("mean", "sum")
    ]
    for one, other in zip(*pruned, strict=True):
        np.testing.assert_array_equal(one, other)
