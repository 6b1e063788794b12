"""Spearman's correlation, and how criteria agree with the oracle."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import scipy.stats

from keras_prune.analysis import Oracle, RankCorrelation, correlate, oracle, rank_correlation
from keras_prune.analysis.rank import ranks, spearman
from keras_prune.criteria import Random, Taylor


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kinds", [1000, 3])
def test_ranks_and_correlation_are_those_of_scipy(seed, kinds):
    """With few kinds of values most of them are ties."""
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, kinds, (2, 5 + 7 * seed)).astype(np.float64) - kinds / 2
    np.testing.assert_array_equal(ranks(first), scipy.stats.rankdata(first))
    assert spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic, abs=1e-12)


def test_infinite_scores_have_the_last_rank():
    values = np.array([1.0, -np.inf, 0.0, -np.inf])
    assert ranks(values).tolist() == [4.0, 1.5, 3.0, 1.5]
    assert spearman(values, np.array([9.0, 1.0, 5.0, 1.0])) == 1.0


def test_no_order():
    assert np.isnan(spearman(np.zeros(3), np.arange(3.0)))
    assert np.isnan(spearman(np.arange(1.0), np.arange(1.0)))
    with pytest.raises(ValueError, match="NaN"):
        spearman(np.array([1.0, np.nan]), np.arange(2.0))
    with pytest.raises(ValueError, match="one length"):
        spearman(np.arange(3.0), np.arange(2.0))


def measured() -> Oracle:
    changes = {"a": np.array([0.1, -0.4, 0.3]), "b": np.array([0.02, 0.01, 0.03])}
    return Oracle(1.0, changes, {"a": np.arange(3), "b": np.arange(3, 6)})


def compared() -> RankCorrelation:
    scores = {
        "exact": {"a": np.array([10.0, 40.0, 30.0]), "b": np.array([2.0, 1.0, 3.0])},
        "signed": {"a": np.array([0.1, -0.4, 0.3]), "b": np.array([0.02, 0.01, 0.03])},
        "scale": {"a": np.array([1.0, 4.0, 3.0]), "b": np.array([200.0, 100.0, 300.0])},
        "nothing": {"a": np.zeros(3), "b": np.zeros(3)},
    }
    return correlate(measured(), scores)


def test_agreement():
    found = compared().criteria
    assert found["exact"].layers == {"a": 1.0, "b": 1.0}
    assert found["exact"].overall == 1.0
    # The lesser layer's 2, 1, 3 become .53, .27, .80 beside .20, .78, .59.
    expected = scipy.stats.spearmanr([0.1, 0.4, 0.3, 0.02, 0.01, 0.03], [0.2, 0.78, 0.59, 0.53, 0.27, 0.8]).statistic
    assert found["exact"].normalized == pytest.approx(expected)
    assert found["signed"].layers == {"a": -0.5, "b": 1.0}
    assert found["signed"].per_layer == 0.25
    assert found["signed"].signed_layers == {"a": 1.0, "b": 1.0}
    assert found["signed"].signed_per_layer == 1.0
    assert found["scale"].per_layer == 1.0
    assert found["scale"].overall < 0 < found["scale"].normalized == pytest.approx(expected)
    assert np.isnan(found["nothing"].per_layer)


def test_a_part_of_a_layer_is_divided_by_the_norm_of_all_of_it():
    scores = {"part": {"a": np.array([1.0, 4.0, 3.0]), "b": np.array([200.0, 100.0, 300.0])}}
    scaled = {"part": {"a": np.array([10.0, 40.0, 30.0]), "b": np.array([2.0, 1.0, 3.0])}}
    found = correlate(measured(), scores, scaled=scaled).criteria["part"]
    assert found.normalized == 1.0
    assert found.overall < 0


def test_table():
    assert str(compared()) == (
        "Spearman's correlation with the oracle, 6 units of 2 layers:\n"
        "criterion  per layer  all, raw  all, l2  signed, per layer  signed, all, l2\n"
        "exact           1.00      1.00     0.37               0.25            -0.14\n"
        "scale           1.00     -0.54     0.37               0.25            -0.14\n"
        "signed          0.25      0.14    -0.31               1.00             0.54\n"
        "nothing            -         -        -                  -                -"
    )


def test_to_dict():
    found = compared().to_dict()
    assert list(found) == ["exact", "scale", "signed", "nothing"]
    assert found["exact"]["layers"] == {"a": 1.0, "b": 1.0}
    assert found["nothing"]["normalized"] is None


def test_figure():
    pytest.importorskip("matplotlib")
    axes = compared().figure().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["exact", "scale", "signed", "nothing"]
    columns = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
    assert columns == ["a", "b", "mean of layers", "all, raw", "all, l2"]
    assert [text.get_text() for text in axes.texts][10:13] == ["-0.50", "1.00", "0.25"]
    assert [text.get_text() for text in axes.texts][-5:] == ["–"] * 5


def test_figure_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-prune\[plot\]"):
        compared().figure()


def test_scores_of_other_units():
    with pytest.raises(ValueError, match="scores of few: expected one for each of the 3 units of b, got none"):
        correlate(measured(), {"few": {"a": np.zeros(3)}})
    with pytest.raises(ValueError, match=r"3 units of a, got shape \(2,\)"):
        correlate(measured(), {"few": {"a": np.zeros(2), "b": np.zeros(3)}})


X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [-0.5], [0.25]], np.float32) + 0.5


def near_linear() -> keras.Model:
    """Units whose outputs reach the loss in small, different shares, so that the first order says nearly all."""
    layers = [keras.layers.Dense(6, name="hidden"), keras.layers.Dense(1, name="out")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    generator = np.random.default_rng(1)
    layers[0].set_weights([generator.normal(size=(3, 6)), generator.normal(size=6)])
    layers[1].set_weights([1e-3 * np.array([[1.0], [-2.0], [4.0], [-8.0], [16.0], [32.0]]), np.zeros(1)])
    model.compile(loss="mae")
    return model


def test_criteria_of_a_model():
    model = near_linear()
    before = model.get_weights()
    found = rank_correlation(model, (X, Y), criteria=["activation_mean", "magnitude", "taylor_fo", Random(seed=3)])
    assert set(found.criteria) == {"activation_mean", "magnitude", "taylor_fo", "Random(seed=3)"}
    assert found.criteria["taylor_fo"].per_layer == 1.0  # one batch of all the data holds C'(w) * w itself
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_oracle_that_was_measured_before():
    model = near_linear()
    known = oracle(model, (X, Y))
    found = rank_correlation(model, (X, Y), criteria=[Taylor()], oracle=known)
    assert found.oracle is known
    part = Oracle(known.loss, {"hidden": known.changes["hidden"][[4, 2]]}, {"hidden": np.array([4, 2])})
    few = rank_correlation(model, (X, Y), criteria=["magnitude"], oracle=part)
    sums = np.abs(model.layers[0].kernel.numpy()).sum(axis=0)[[4, 2]]
    expected = 1.0 if (sums[0] > sums[1]) == (abs(part.changes["hidden"][0]) > abs(part.changes["hidden"][1])) else -1.0
    assert few.criteria["magnitude"].layers == {"hidden": expected}
    scores = np.abs(model.layers[0].kernel.numpy()).mean(axis=0)
    scaled = {"magnitude": {"hidden": (scores / np.linalg.norm(scores))[[4, 2]]}}  # by the norm of the whole layer
    assert correlate(part, {"magnitude": {"hidden": scores[[4, 2]]}}, scaled=scaled) == few
    with pytest.raises(ValueError, match="oracle: expected one of this model, got units of 'a'"):
        rank_correlation(model, (X, Y), criteria=["magnitude"], oracle=measured())
    with pytest.raises(ValueError, match="criterion"):
        rank_correlation(model, (X, Y), criteria=["nothing"], oracle=known)


@pytest.mark.slow
def test_taylor_on_a_trained_network(data_dir):
    """What the paper claims, on a small network: nothing else ranks a layer's units as well as the Taylor criteria."""
    if not (data_dir / "fashion_mnist.npz").is_file():
        pytest.skip(f"{data_dir}/fashion_mnist.npz is not there")
    with np.load(data_dir / "fashion_mnist.npz") as data:
        x, y = data["x_train"][:6000, ..., None].astype(np.float32) / 255, data["y_train"][:6000].astype(np.int32)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(12, 5, strides=2, activation="relu", name=f"conv{number}") for number in (1, 2)]
    head = [keras.layers.Flatten(), keras.layers.Dense(24, "relu", name="fc"), keras.layers.Dense(10, name="out")]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers, *head])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=32, epochs=3, verbose=0)
    names = ["taylor", "taylor_fo", "weight_norm", "activation_mean", "activation_std", "mutual_information", "random"]
    found = {name: each.per_layer for name, each in rank_correlation(model, (x, y), criteria=names).criteria.items()}
    assert found["taylor"] >= 0.73  # the paper's, of VGG-16
    assert found["taylor_fo"] >= 0.7
    others = set(names) - {"taylor", "taylor_fo"}
    assert max(found[name] for name in others) < found["taylor"]
