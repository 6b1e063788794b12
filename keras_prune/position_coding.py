"""Which units of a matrix are kept, as a symbol stream: gaps with an escape, or a bitmap. NumPy only.

Gaps are the relative index of Han et al. 2015 (https://arxiv.org/abs/1506.02626), with an escape symbol in place of
the stored zero that bridges a large gap there: it costs no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from keras_prune import entropy_coding
from keras_prune.sparse_format import FormatError
from keras_prune.symbol_frequencies import symbol_counts

# Largest symbols tried: 2^b - 1 uses up a fixed width, those between cost a smaller table of frequencies.
_ESCAPES = (1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63, 95, 127, 191, 255)
_CHUNK = 1 << 22  # units looked at at once


def _zero_runs(kept: np.ndarray) -> Iterator[np.ndarray]:
    """Pruned units before each kept one, int64, in chunks."""
    last = -1
    for start in range(0, len(kept), _CHUNK):
        positions = np.flatnonzero(kept[start : start + _CHUNK]) + start
        if len(positions):
            yield np.diff(positions, prepend=last) - 1
            last = int(positions[-1])


def _run_counts(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of runs of zeros that occur, and how often each does; both int64."""
    lengths, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for runs in _zero_runs(kept):
        found, times = np.unique(runs, return_counts=True)
        merged, where = np.unique(np.concatenate([lengths, found]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, times])).astype(np.int64)
        lengths = merged
    return lengths, counts


def best_gaps(kept: np.ndarray) -> tuple[int, int]:
    """The escape that costs least.

    Args:
        kept: (num_units,) bool.

    Returns:
        ``(cost, escape)``: `entropy_coding.stream_cost` of the gaps; 1 to 255.
    """
    lengths, counts = _run_counts(kept)
    longest = int(lengths[-1]) if len(lengths) else 0
    escapes = {escape for escape in _ESCAPES if escape <= longest} | {min(longest + 1, 255)}
    return min((_gap_cost(lengths, counts, escape), escape) for escape in escapes)


def _gap_cost(lengths: np.ndarray, counts: np.ndarray, escape: int) -> int:
    symbols = np.bincount(lengths % escape, counts, escape + 1).astype(np.int64)
    symbols[escape] = int((lengths // escape * counts).sum())
    return entropy_coding.stream_cost(symbols)


def bitmap_cost(kept: np.ndarray) -> int:
    """`entropy_coding.stream_cost` of the bitmap of (num_units,) bool."""
    return entropy_coding.stream_cost(symbol_counts(bitmap_symbols(kept)))


def gap_symbols(kept: np.ndarray, escape: int) -> np.ndarray:
    """The gaps: s < escape is s pruned units and a kept one, s == escape is ``escape`` pruned units.

    Args:
        kept: (num_units,) bool.
        escape: 1 to 255.

    Returns:
        (num_symbols,) uint8.
    """
    parts = [np.zeros(0, np.uint8)]
    for runs in _zero_runs(kept):
        escapes = runs // escape
        symbols = np.full(len(runs) + int(escapes.sum()), escape, np.uint8)
        symbols[np.arange(len(runs)) + np.cumsum(escapes)] = runs % escape
        parts.append(symbols)
    return np.concatenate(parts)


def bitmap_symbols(kept: np.ndarray) -> np.ndarray:
    """The bitmap of (num_units,) bool, (ceil(num_units / 8),) uint8: bit k of byte j is unit 8 j + k."""
    return np.packbits(kept, bitorder="little")


def units_of_gaps(symbols: Iterable[np.ndarray], escape: int, *, num_kept: int, num_units: int) -> Iterator[np.ndarray]:
    """The inverse of `gap_symbols`, on symbols that come in chunks.

    Yields:
        (n,) int64, numbers of kept units, ascending.

    Raises:
        FormatError: the symbols break a rule of the format.
    """
    end, kept, last_is_kept = 0, 0, True
    for chunk in symbols:
        is_kept = chunk < escape
        ends = np.cumsum(chunk.astype(np.int64) + is_kept) + end
        units = ends[is_kept] - 1
        end, kept, last_is_kept = int(ends[-1]), kept + len(units), bool(is_kept[-1])
        if int(chunk.max()) > escape:
            raise FormatError("packed weights: a gap exceeds its escape; the buffer was not made by keras_prune")
        if end > num_units:
            raise FormatError("packed weights: a unit lies past the end of the matrix; the buffer is corrupt")
        if kept > num_kept:
            break
        yield units
    if not last_is_kept:
        raise FormatError("packed weights: an escape ends the gaps; the buffer was not made by keras_prune")
    _check_count(kept, num_kept)


def units_of_bitmap(symbols: Iterable[np.ndarray], *, num_kept: int, num_units: int) -> Iterator[np.ndarray]:
    """The inverse of `bitmap_symbols`, on symbols that come in chunks; yields and raises as `units_of_gaps` does."""
    start, kept = 0, 0
    step = 1 << 17  # 8 MB of numbers
    for chunk in (whole[at : at + step] for whole in symbols for at in range(0, len(whole), step)):
        units = np.flatnonzero(np.unpackbits(chunk, bitorder="little")) + start
        start, kept = start + 8 * len(chunk), kept + len(units)
        if len(units) and int(units[-1]) >= num_units:
            raise FormatError("packed weights: the padding bits of a bitmap are not zero; the buffer is corrupt")
        if kept > num_kept:
            break
        yield units
    _check_count(kept, num_kept)


def _check_count(kept: int, num_kept: int) -> None:
    if kept != num_kept:
        raise FormatError("packed weights: the count of kept units is wrong; the buffer was not made by keras_prune")
