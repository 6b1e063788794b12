"""How many weights are kept, and which: golden literals and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_prune.selection import kept_count, select_highest


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [
        (10, 0.0, 10),
        (10, 0.8, 2),
        (10, 0.75, 2),  # 2.5 to even
        (10, 0.25, 8),  # 7.5 to even
        (15, 0.9, 2),  # 1.5 in float32, as in TFMOT; 1.4999999999999996 in float64
        (3, 0.8, 1),
        (2, 0.9, 1),  # 0.2: one survives
        (1, 0.99, 1),
        (7, 1.0, 0),
        (235200, 0.92, 18816),
        (25_000_000, 0.8, 5_000_000),
        (102_760_448, 0.96, 4_110_418),
    ],
)
def test_kept_count_golden(size, sparsity, kept):
    assert kept_count(size, sparsity) == kept


@given(st.integers(1, 10**9), st.floats(0, 0.999))
def test_kept_count_is_within_one(size, sparsity):
    assert 1 <= kept_count(size, sparsity) <= size
    assert abs(kept_count(size, sparsity) - max(1, size * (1 - sparsity))) <= 1


@pytest.mark.parametrize(
    ("scores", "kept", "expected"),
    [
        ([3.0, 1.0, 2.0], 2, [1, 0, 1]),
        ([1.0, 1.0, 1.0, 1.0], 2, [1, 1, 0, 0]),  # ties: the first
        ([1.0, 2.0, 1.0, 2.0, 1.0], 3, [1, 1, 0, 1, 0]),
        ([0.0, 0.0, 0.0], 1, [1, 0, 0]),
        ([-0.0, 0.0, 0.0], 1, [1, 0, 0]),
        ([-1.0, -3.0, -2.0], 1, [1, 0, 0]),
        ([5.0, np.inf, 1.0], 1, [0, 1, 0]),
        ([5.0], 1, [1]),
        ([5.0, 1.0], 0, [0, 0]),
        ([5.0, 1.0], 2, [1, 1]),
    ],
)
def test_select_highest_golden(scores, kept, expected):
    assert select_highest(np.array(scores, np.float32), kept).tolist() == [bool(x) for x in expected]


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 1e-45, 3e38])),
    st.data(),
)
def test_select_highest_equals_a_stable_sort(scores, data):
    kept = data.draw(st.integers(0, len(scores)))
    expected = np.zeros(len(scores), bool)
    expected[np.argsort(-scores, kind="stable")[:kept]] = True
    assert select_highest(scores, kept).tolist() == expected.tolist()


def large(kind):
    rng = np.random.default_rng(0)
    scores = np.abs(rng.normal(size=300_000)).astype(np.float32)
    if kind == "mostly zero":
        scores[scores < 1.3] = 0
    if kind == "few values":
        scores = np.round(scores * 2)
    if kind == "sorted":
        scores = np.sort(scores)
    if kind == "misleading sample":
        scores[:: 300_000 // (1 << 16) | 1] += 10
    return scores


@pytest.mark.parametrize("kind", ["normal", "mostly zero", "few values", "sorted", "misleading sample"])
@pytest.mark.parametrize("kept", [1, 2, 3000, 60_000, 150_000, 299_998, 299_999])
def test_select_highest_of_large_layers(kind, kept):
    scores = large(kind)
    expected = np.zeros(len(scores), bool)
    expected[np.argsort(-scores, kind="stable")[:kept]] = True
    assert np.array_equal(select_highest(scores, kept), expected)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_nan_scores_are_refused(position):
    scores = np.ones(3, np.float32)
    scores[position] = np.nan
    with pytest.raises(ValueError, match="scores: expected numbers, got NaN; training has probably diverged"):
        select_highest(scores, 1)
