"""Ranks, and how much two rankings agree."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in their order: 1 for the smallest; equal values share the mean of their places.

    Args:
        values: float (n,), not NaN.

    Returns:
        float64 (n,), in [1, n].

    Example:
        >>> ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist()
        [2.5, 1.0, 2.5, 4.0]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse.reshape(-1)]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation: Pearson's of the ranks, ``cov(r, s) / (s.d.(r) * s.d.(s))``.

    Args:
        first: float (n,).
        second: float (n,).

    Returns:
        In [-1, 1]: 1 where the orders are the same; NaN where all values of one are equal, which is no order at all.

    Raises:
        ValueError: the lengths differ, or a value is NaN.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 5.0, 20.0]))
        1.0
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two arrays of one length, got shapes {first.shape} and {second.shape}")
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("expected numbers to rank, got NaN; check the scores and the loss")
    deviations = [ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    square_sums = [np.sum(deviation**2) for deviation in deviations]
    if not all(square_sums):
        return float("nan")
    return float(np.clip(np.sum(np.prod(deviations, axis=0)) / np.sqrt(np.prod(square_sums)), -1, 1))
