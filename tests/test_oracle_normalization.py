"""The oracle of units under a normalization over them, which may go with ``exact=False`` only."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_prune

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)
EPSILON = 1e-3


def model() -> keras.Model:
    """Four units, normalized together, and one output."""
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    made.add(keras.layers.LayerNormalization(epsilon=EPSILON, name="norm"))
    made.add(keras.layers.Dense(1, name="out"))
    made.get_layer("norm").set_weights([np.arange(1.0, 5.0), np.ones(4)])
    made.compile(loss="mse")
    return made


def loss_without(made: keras.Model, unit: int | None) -> float:
    """In NumPy: the unit's activation, gamma and beta are zero, and the statistics count the zero."""
    kernel, bias, gamma, beta, last, shift = (np.asarray(weight, np.float64) for weight in made.get_weights())
    stays = np.arange(4) != unit
    z = (X @ kernel + bias) * stays
    z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + EPSILON)
    return float(np.mean(((z * gamma + beta) * stays @ last + shift - Y) ** 2))


def test_changes_by_hand():
    made = model()
    found = keras_prune.oracle(made, (X, Y), exact=False)
    assert found.units["hidden"].tolist() == [0, 1, 2, 3]
    assert found.loss == pytest.approx(loss_without(made, None), rel=1e-5)
    expected = [loss_without(made, unit) - loss_without(made, None) for unit in range(4)]
    np.testing.assert_allclose(found.changes["hidden"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="groups: expected some of none, for no unit is free"):
        keras_prune.oracle(made, (X, Y))


def test_correlations():
    made = model()
    found = keras_prune.rank_correlation(made, (X, Y), criteria=["taylor"], exact=False)
    assert list(found.criteria["taylor"].layers) == ["hidden"]
    again = keras_prune.rank_correlation(made, (X, Y), criteria=["taylor"], oracle=found.oracle, exact=False)
    assert again.criteria == found.criteria
    with pytest.raises(ValueError, match="or give the arguments that it was measured with"):
        keras_prune.rank_correlation(made, (X, Y), criteria=["taylor"], oracle=found.oracle)
