"""How often each symbol of a stream occurs: counts, and the frequencies that rANS codes with. NumPy only."""

from __future__ import annotations

import numpy as np

from keras_prune.sparse_format import FormatError

PRECISION_BITS = 14  # frequencies sum to 2^14: a table of 16384 slots, and rare symbols still cost under 14 bits
TOTAL = 1 << PRECISION_BITS


def symbol_counts(symbols: np.ndarray) -> np.ndarray:
    """How often each byte occurs, (256,) int64, of uint8 in one dimension."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(symbols), 1 << 20):  # bincount makes int64 of its input: 8 MB at once
        counts += np.bincount(symbols[start : start + (1 << 20)], minlength=256)
    return counts


def quantized_frequencies(counts: np.ndarray) -> np.ndarray:
    """Frequencies that sum to 2^14, at least 1 for each symbol that occurs, and cost the fewest bits but for a hair.

    From count * 2^14 / sum, rounded down, the steps are given (or taken) one by one where they gain the most (or
    lose the least): count * log((f + 1) / f), for which count / (f + 1/2) stands, exact in every floating point.

    Args:
        counts: (size,) int64, how often each symbol occurs; size 1 to 256, at least one count positive.

    Returns:
        (size,) int64.
    """
    counts = np.asarray(counts, np.int64)
    frequencies = np.maximum(counts * TOTAL // counts.sum(), counts > 0)
    weights = counts.astype(np.float64)
    while (missing := TOTAL - int(frequencies.sum())) != 0:
        if missing > 0:
            frequencies[np.argmax(weights / (frequencies + 0.5))] += 1
        else:
            losses = np.where(frequencies > 1, weights / (frequencies - 0.5), np.inf)
            frequencies[np.argmin(losses)] -= 1
    return frequencies


def frequency_table(frequencies: np.ndarray) -> bytes:
    """LEB128: seven bits a byte, low ones first, the high bit says that more follow."""
    table = bytearray()
    for frequency in frequencies.tolist():
        while frequency >= 128:
            table.append(frequency & 127 | 128)
            frequency >>= 7  # noqa: PLW2901
        table.append(frequency)
    return bytes(table)


def read_frequencies(data: memoryview, count: int) -> tuple[np.ndarray, int]:
    """The frequencies at the data's start, and their bytes."""
    frequencies = np.zeros(count, np.uint32)
    at = 0
    for symbol in range(count):
        value = 0
        for shift in (0, 7, 14):
            if at == len(data):
                raise FormatError("packed weights: a table of frequencies is cut off: truncated")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
        if byte >= 128 or (shift > 0 and byte == 0):
            raise FormatError("packed weights: a frequency is not in its shortest form; the buffer is corrupt")
        frequencies[symbol] = value
    if int(frequencies.sum(dtype=np.int64)) != TOTAL or frequencies[-1] == 0:
        raise FormatError(f"packed weights: expected frequencies that sum to {TOTAL} and end above 0; corrupt")
    return frequencies, at
