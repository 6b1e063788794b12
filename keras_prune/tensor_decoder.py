"""From the sections of a version 2 buffer to a matrix of codes, or of bits. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keras_prune import entropy_coding, position_coding, value_coding
from keras_prune.sparse_format import FormatError
from keras_prune.tensor_header import HEADER, TensorHeader

_CHUNK = 1 << 20  # units numbered at once


def check_sections(header: TensorHeader, data: memoryview) -> None:
    """Checks every rule that needs decoding; raises `FormatError`."""
    num_values = sum(header.grid.num_weights(units) for units in _kept_units(header, data))
    _check_count(header, num_values)
    for symbols in _symbol_stream(header, data).chunks():
        _check_symbols(header, symbols)


def raw_matrix(header: TensorHeader, data: memoryview) -> np.ndarray:
    """The matrix as unsigned integers: codes, or the bits of the stored type; every rule is checked.

    Args:
        header: of the buffer, its checksum right.
        data: the whole buffer.

    Returns:
        (rows, cols) uint8, uint16 or uint32.

    Raises:
        FormatError: a rule is broken.
    """
    itemsize = 1 if header.values != "split" else np.dtype(header.element).itemsize
    symbols = _symbol_stream(header, data).decode()
    _check_symbols(header, symbols)
    low = np.frombuffer(data, np.uint8, header.low_bytes, header.num_bytes - header.low_bytes)
    flat = np.full(header.rows * header.cols, header.fill, f"u{itemsize}")
    at, num_low = 0, header.low_bytes // max(header.num_values, 1)
    for units in _kept_units(header, data):
        for where in header.grid.weights(units):
            end = at + len(where)
            if end > header.num_values:
                _check_count(header, end)
            flat[where] = value_coding.joined(symbols[at:end], low[num_low * at : num_low * end], itemsize)
            at = end
    _check_count(header, at)
    return flat.reshape(header.rows, header.cols)


def _kept_units(header: TensorHeader, data: memoryview) -> Iterator[np.ndarray]:
    """The numbers of the kept units in chunks, everything about them checked when the last is taken."""
    num_units = header.grid.num_units
    if header.positions == "all":
        for start in range(0, num_units, _CHUNK):
            yield np.arange(start, min(start + _CHUNK, num_units))
        return
    symbols = entropy_coding.read(data[HEADER.size + header.table_bytes :]).chunks()
    counts = {"num_kept": header.num_units, "num_units": num_units}
    if header.positions == "gaps":
        yield from position_coding.units_of_gaps(symbols, header.escape, **counts)
    else:
        yield from position_coding.units_of_bitmap(symbols, **counts)


def _symbol_stream(header: TensorHeader, data: memoryview) -> entropy_coding.Stream:
    return entropy_coding.read(data[HEADER.size + header.table_bytes + header.position_bytes :])


def _check_count(header: TensorHeader, num_values: int) -> None:
    if num_values != header.num_values:
        raise FormatError("packed weights: the count of values is wrong; the buffer was not made by keras_prune")


def _check_symbols(header: TensorHeader, symbols: np.ndarray) -> None:
    if header.values == "codebook" and len(symbols) and int(symbols.max()) >= header.codebook_size:
        raise FormatError("packed weights: a code exceeds the codebook; the buffer was not made by keras_prune")
