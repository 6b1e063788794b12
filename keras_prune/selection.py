"""Selection of the highest scores, with exact counts and a rule for ties. Pure NumPy."""

from __future__ import annotations

import itertools

import numpy as np

# Layers above this size are selected from through a sample of this size.
_SAMPLE = 1 << 16
# Up to this size comparing all pairs of a row is faster than partitioning each row: for 2:4 of 25 M weights twice as
# fast, and forty times where most are zero already.
_SHORT = 8


def kept_count(size: int, sparsity: float) -> int:
    """How many of `size` weights are kept: ``round(size * (1 - sparsity))``, halves to even, at least one.

    Small layers are counted in float32, as TFMOT does, so that both round alike; above 2**20 weights float32 could
    miss the target by one, and float64 is taken. Sparsity 1.0 (a layer that a common threshold empties) keeps none.
    """
    real = np.float32 if size <= 1 << 20 else np.float64
    kept = int(np.rint(real(size) * (real(1) - real(sparsity))))
    return kept if sparsity == 1.0 else min(size, max(1, kept))


def select_highest(scores: np.ndarray, kept: int) -> np.ndarray:
    """Marks exactly the `kept` highest scores; of equal scores those that come first.

    A selection, not a sort: linear time.

    Args:
        scores: (size,) float, not NaN.
        kept: 0 to size.

    Returns:
        (size,) bool.

    Raises:
        ValueError: a score is NaN.
    """
    size = len(scores)
    _check_no_nan(scores)
    if kept in (0, size):
        return np.full(size, kept > 0)
    threshold = _kth_highest(scores, kept)
    keep = scores >= threshold
    excess = np.count_nonzero(keep) - kept
    if excess:
        keep[np.flatnonzero(scores == threshold)[-excess:]] = False
    return keep


def _kth_highest(scores: np.ndarray, k: int) -> float:
    """The k-th highest score, 1 <= k <= size.

    ``np.partition`` is fast on distinct values, but slow where most are equal, as in layers that are pruned already.
    So a sorted sample brackets the score, ties at the bracket's ends are counted, and only what lies strictly between
    them is partitioned. If the sample misleads, everything is.
    """
    size = len(scores)
    if size > 4 * _SAMPLE:
        sample = np.sort(scores[:: size // _SAMPLE | 1])  # odd: it meets every channel of the usual counts
        share = 1 - k / size
        position, margin = share * len(sample), 4 * np.sqrt(share * (1 - share) * len(sample)) + 2  # 4 sigma
        low = sample[max(0, int(position - margin))]
        high = sample[min(len(sample) - 1, int(position + margin))]
        above_high, from_high = np.count_nonzero(scores > high), np.count_nonzero(scores >= high)
        above_low, from_low = np.count_nonzero(scores > low), np.count_nonzero(scores >= low)
        if above_high < k <= from_high:
            return high
        if above_low < k <= from_low:
            return low
        if from_high < k <= above_low:
            scores, k = scores[(scores > low) & (scores < high)], k - int(from_high)
    return np.partition(scores, len(scores) - k)[len(scores) - k]


def select_highest_of_rows(rows: np.ndarray, kept: int) -> np.ndarray:
    """Marks exactly the `kept` highest scores of each row; of equal scores those that come first.

    Args:
        rows: (num_rows, size) float, not NaN.
        kept: 0 to size.

    Returns:
        (num_rows, size) bool.

    Raises:
        ValueError: a score is NaN.
    """
    size = rows.shape[1]
    _check_no_nan(rows)
    if kept in (0, size):
        return np.full(rows.shape, kept > 0)
    if size <= _SHORT:
        return _select_of_short_rows(rows, kept)
    thresholds = np.partition(rows, size - kept, axis=1)[:, size - kept, np.newaxis]
    keep = rows >= thresholds
    tied = np.flatnonzero(np.count_nonzero(keep, axis=1) > kept)
    if len(tied):
        above, equal = rows[tied] > thresholds[tied], rows[tied] == thresholds[tied]
        places = kept - np.count_nonzero(above, axis=1)[:, np.newaxis]
        keep[tied] = above | (equal & (np.cumsum(equal, axis=1) <= places))
    return keep


def _select_of_short_rows(rows: np.ndarray, kept: int) -> np.ndarray:
    """Compares each score of a row with each other: all rows at once, whatever their ties."""
    columns = np.ascontiguousarray(rows.T)
    places = np.zeros(columns.shape, np.uint8)  # how many scores of the row go before this one
    for i, j in itertools.combinations(range(len(columns)), 2):
        before = columns[i] >= columns[j]
        places[j] += before
        places[i] += ~before
    return np.ascontiguousarray((places < kept).T)


def _check_no_nan(scores: np.ndarray) -> None:
    if scores.size and np.isnan(scores.max()):  # max hands NaN on
        raise ValueError(
            "scores: expected numbers, got NaN; training has probably diverged (look for a NaN loss), "
            "or the criterion divides by zero"
        )
