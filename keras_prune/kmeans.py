"""One-dimensional k-means: Lloyd's iterations from a linear start, or the optimum.

The linear start is that of Han, Mao and Dally 2016, "Deep Compression" (https://arxiv.org/abs/1510.00149, section
3.2); the optimum by dynamic programming that of Wang and Song 2011, "Ckmeans.1d.dp"
(https://journal.r-project.org/archive/2011-2/RJournal_2011-2_Wang+Song.pdf), with divide and conquer.
"""

from __future__ import annotations

import numpy as np

_MAX_ITERATIONS = 300  # Lloyd's steps; 1-D layers of 10^8 weights settle in fewer than 100
# Points times centroids up to which the optimum is exact: about a second on one core.
_EXACT_WORK = 1 << 20


def kmeans(values: np.ndarray, count: int, *, optimum: bool = False) -> np.ndarray:
    """Centroids for which ``sum_i min_k (v_i - c_k)^2`` is small: a local optimum, or the global one.

    By default Lloyd's iterations from centroids spread evenly over the range. The optimum is exact where the distinct
    values times `count` are at most 2^20; beyond that it is that of grouped values, improved by Lloyd's iterations
    (within 1 % of the exact one for Laplace weights).

    Args:
        values: (n,) float64, ascending, at least one.
        count: number of centroids, >= 1.
        optimum: find the global optimum.

    Returns:
        At most `count` distinct centroids, (k,) float32, ascending.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    linear = _lloyd(values, sums, centroids=_linear(values, count))
    if not optimum:
        return linear
    best = _lloyd(values, sums, centroids=_optimum(*_points(values, _EXACT_WORK // count), count=count))
    return min(linear, best, key=lambda centroids: _loss(values, centroids))


def _points(values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted points and their sizes: the distinct values, or means of groups of them where they are too many."""
    distinct, first = np.unique(values, return_index=True)
    if len(distinct) > most:
        return _grouped(values, most)
    return distinct, np.diff(np.append(first, len(values))).astype(np.float64)


def _linear(values: np.ndarray, count: int) -> np.ndarray:
    """Centroids spread evenly over the range of the sorted values, the dead zone around zero left out."""
    negative, positive = values[values < 0], values[values > 0]
    below = negative[-1] - negative[0] if len(negative) else 0.0
    above = positive[-1] - positive[0] if len(positive) else 0.0
    offsets = (np.arange(count) + 0.5) * (below + above) / count
    base_below = negative[0] if len(negative) else 0.0
    base_above = positive[0] if len(positive) else 0.0
    return np.where(offsets < below, base_below + offsets, base_above + (offsets - below))


def _grouped(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and sizes of about `count` groups of neighbours: half of the borders by rank, half by value."""
    by_rank = np.linspace(0, len(values), count // 2 + 1).astype(np.int64)
    by_value = np.searchsorted(values, np.linspace(values[0], values[-1], count // 2))
    borders = np.unique(np.concatenate([by_rank, by_value]))
    sizes = np.diff(borders)
    return np.add.reduceat(values, borders[:-1]) / sizes, sizes.astype(np.float64)


def _optimum(points: np.ndarray, sizes: np.ndarray, *, count: int) -> np.ndarray:
    """Exact centroids of sorted weighted points: ``D_k(j) = min_i D_(k-1)(i) + cost(i, j)``."""
    count = min(count, len(points))
    cost = _Cost(points, sizes)
    ends = np.arange(1, len(points) + 1)
    best = cost(np.zeros_like(ends), ends)
    splits = []
    for clusters in range(2, count + 1):
        best, split = _next_row(best, cost, clusters=clusters)
        splits.append(split)
    borders = [len(points)]
    for split in reversed(splits):
        borders.append(int(split[borders[-1] - 1]))
    return cost.means(np.array([0, *borders[:0:-1]]), np.array(borders[::-1]))


class _Cost:
    """Sum of squared distances from their mean of the points i to j - 1."""

    def __init__(self, points: np.ndarray, sizes: np.ndarray) -> None:
        self._points = points
        shifted = points - np.average(points, weights=sizes)  # smaller sums lose fewer digits
        self._shift = points[0] - shifted[0]
        columns = [sizes, sizes * shifted, sizes * shifted**2]
        self._sums = [np.concatenate([[0.0], np.cumsum(column)]) for column in columns]

    def __call__(self, first: np.ndarray, end: np.ndarray) -> np.ndarray:
        size, total, squares = (sums[end] - sums[first] for sums in self._sums)
        return np.maximum(squares - total * total / size, 0.0)

    def means(self, first: np.ndarray, end: np.ndarray) -> np.ndarray:
        """The means, between the first and the last of the points."""
        size, total, _ = (sums[end] - sums[first] for sums in self._sums)
        return np.clip(total / size + self._shift, self._points[first], self._points[end - 1])


def _next_row(best: np.ndarray, cost: _Cost, *, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """One more cluster: for each number of points, the least sum and where the last cluster begins.

    The best beginning never falls as points are added, so half of the points bound it for the other half: a whole
    level of the recursion is one pass over arrays.
    """
    number = len(best)
    result, split = best.copy(), np.zeros(number, np.int64)
    # Of j points `clusters - 1` at least go to the earlier clusters; fewer points keep the old sum.
    low, high = np.array([clusters - 1]), np.array([number - 1])
    split_low, split_high = np.array([clusters - 1]), np.array([number - 1])
    while len(low):
        middle = (low + high) // 2
        lengths = np.minimum(split_high, middle) - split_low + 1
        offsets = np.cumsum(lengths) - lengths
        candidates = np.arange(lengths.sum()) + np.repeat(split_low - offsets, lengths)
        sums = best[candidates - 1] + cost(candidates, np.repeat(middle + 1, lengths))
        least = np.minimum.reduceat(sums, offsets)
        hits = np.flatnonzero(sums == np.repeat(least, lengths))
        chosen = candidates[hits[np.searchsorted(hits, offsets)]]
        result[middle], split[middle] = least, chosen
        left, right = low < middle, middle < high
        low, high, split_low, split_high = (
            np.concatenate([low[left], middle[right] + 1]),
            np.concatenate([middle[left] - 1, high[right]]),
            np.concatenate([split_low[left], chosen[right]]),
            np.concatenate([chosen[left], split_high[right]]),
        )
    return result, split


def _lloyd(values: np.ndarray, sums: np.ndarray, *, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's iterations on sorted float64 values with their running sums; distinct centroids, sorted, as float32."""
    bounds = np.empty(0, np.int64)
    for _ in range(_MAX_ITERATIONS):
        previous = bounds
        middles = (centroids[1:] + centroids[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(values, middles), [len(values)]])
        sizes = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(sizes, 1)
        # Differences of sums lose small values beside huge ones: a mean lies between its smallest and largest member.
        lowest, highest = values[np.minimum(bounds[:-1], len(values) - 1)], values[np.maximum(bounds[1:] - 1, 0)]
        centroids = np.where(sizes > 0, np.clip(means, lowest, np.maximum(lowest, highest)), centroids)
        if np.array_equal(bounds, previous):
            break
    return np.unique(centroids[sizes > 0].astype(np.float32))


def _loss(values: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    bounds = np.concatenate([[0], np.searchsorted(values, middles), [len(values)]])
    return float(np.sum((values - np.repeat(centroids.astype(np.float64), np.diff(bounds))) ** 2))
