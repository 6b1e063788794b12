"""One-dimensional k-means against every possible division of small sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_prune import Codebook, kmeans


def losses(values, count):
    """The squared distances of every division of sorted values into `count` runs."""
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        runs = np.split(values, cuts)
        yield sum(float(((run - run.mean()) ** 2).sum()) for run in runs)


def loss(values, centroids):
    return float((np.abs(values[:, None] - centroids[None]).min(axis=1) ** 2).sum())


@pytest.mark.parametrize("seed", range(40))
def test_optimum_is_the_best_of_all_divisions(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(np.round(rng.laplace(size=10), 2 if seed % 2 else 0))  # rounded to whole numbers, many are equal
    for count in (1, 2, 3, 4):
        centroids = kmeans.kmeans(values, count, optimum=True).astype(np.float64)
        assert loss(values, centroids) <= min(losses(values, count)) + 1e-6  # centroids are rounded to float32


def test_optimum_where_a_linear_start_is_caught():
    values = np.array([0.0, 1, 2, 3, 50, 51, 100], np.float64)
    assert kmeans.kmeans(values, 3).tolist() == [1.5, 50.5, 100]
    assert kmeans.kmeans(values[:6], 3).tolist() == [1.5, 50.5]  # of three even ones the middle one has no member
    assert kmeans.kmeans(values[:6], 3, optimum=True).tolist() == [0.5, 2.5, 50.5]


@pytest.mark.parametrize("count", [3, 15, 255])
def test_many_values_are_grouped_and_lose_little(monkeypatch, count):
    values = np.sort(np.random.default_rng(0).laplace(size=4000))
    exact = loss(values, kmeans.kmeans(values, count, optimum=True).astype(np.float64))
    monkeypatch.setattr(kmeans, "_EXACT_WORK", 2000 * count)
    grouped = loss(values, kmeans.kmeans(values, count, optimum=True).astype(np.float64))
    assert grouped <= 1.01 * exact  # half as many groups as values


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_optimum_of_a_codebook_has_no_larger_error(bits):
    rng = np.random.default_rng(1)
    weights = (rng.laplace(size=(300, 40)) * (rng.random((300, 40)) < 0.3)).astype(np.float32)

    def error(codebook):
        codes, values = codebook.fit(weights)
        return float(((values[codes].astype(np.float64) - weights) ** 2).sum())

    assert error(Codebook(bits, optimum=True)) <= error(Codebook(bits))
    codes, values = Codebook(bits, optimum=True).fit(weights)
    again_codes, again_values = Codebook(bits, optimum=True).fit(values[codes])
    assert (codes == again_codes).all()
    assert (values == again_values).all()


def test_huge_and_tiny_values_together():
    values = np.sort(np.concatenate([np.linspace(1e-3, 2e-3, 40), [-1e30, 3e38]]))
    centroids = kmeans.kmeans(values, 4, optimum=True)
    assert np.isfinite(centroids).all()
    assert centroids[0] == np.float32(-1e30)
    assert centroids[-1] == np.float32(3e38)


@pytest.mark.parametrize("bad", [1, None, "yes"])
def test_optimum_is_a_bool(bad):
    with pytest.raises(TypeError, match="expected optimum to be True or False"):
        Codebook(4, optimum=bad)
