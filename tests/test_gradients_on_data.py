"""Gradients that prune gathers on data, without training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_models import Slope, X, Y, gradient_of, linear, mean_gradient  # type: ignore[import-not-found]
from keras import layers

from keras_prune.surgery import prune

pytestmark = pytest.mark.usefixtures("seeded")


def batches():
    return [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 3

    def __getitem__(self, index):
        return batches()[index]


@pytest.mark.parametrize(
    "data",
    [batches(), tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), Batches()],
    ids=["list", "dataset", "PyDataset"],
)
def test_prune_gathers_on_data(data):
    model = linear()
    weights = model.get_weights()[0]
    prune(model, 0.5, criterion=Slope(), data=data)
    expected = np.argsort(np.abs(mean_gradient(weights)).reshape(-1))[4:]
    assert np.flatnonzero(model.get_weights()[0]).tolist() == sorted(expected.tolist())


def test_prune_gathers_on_arrays():
    model = linear()
    weights = model.get_weights()[0]
    prune(model, 0.5, criterion=Slope(), data=(X, Y))  # one batch: 24 < 32
    expected = np.argsort(np.abs(gradient_of(weights)).reshape(-1))[4:]
    assert np.flatnonzero(model.get_weights()[0]).tolist() == sorted(expected.tolist())
    assert model.optimizer.iterations.numpy() == 0


def test_prune_errors_of_data():
    with pytest.raises(ValueError, match=r"expected data for the criterion Slope\(\).*data=\(x, y\)"):
        prune(linear(), 0.5, criterion=Slope())
    with pytest.raises(ValueError, match=r"at least one batch"):
        prune(linear(), 0.5, criterion=Slope(), data=[])
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"compiled with a loss.*model\.compile"):
        prune(model, 0.5, criterion=Slope(), data=(X, Y))


def test_several_inputs_in_a_list():
    a, b = keras.Input((X.shape[1],)), keras.Input((X.shape[1],))
    kept = layers.Dense(1, use_bias=False, name="kept")
    model = keras.Model([a, b], kept(a) + layers.Dense(1, use_bias=False, name="lost")(b))
    model.compile(loss="mse")
    prune(model, 0.5, criterion="snip", allocation="global", data=([X, np.zeros_like(X)], Y))
    assert np.count_nonzero(model.get_layer("lost").kernel) == 0  # its gradients are zero
    assert np.count_nonzero(kept.kernel) == X.shape[1]
