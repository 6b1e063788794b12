"""Version 2 of the storage format: any weight tensor as a matrix, its symbols entropy-coded. NumPy only.

Each weight is a symbol (a code, the exponent of a float, a byte) and, for floats, low bytes that do not compress. Kept
weights are found by gaps or a bitmap; gaps and symbols are coded near their entropy (`entropy_coding`). In the end
that is what Deep Compression does with Huffman codes: Han et al. 2016 (https://arxiv.org/abs/1510.00149).

Every byte is described in docs/format.md; ``custom_ops/tensor_format.h`` mirrors this module and both are tested on
the same golden bytes. Version 1, which kernels compute from as it is, is `sparse_format`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from keras_prune import entropy_coding, position_coding, value_coding
from keras_prune.sparse_format import CRC_OFFSET, MAGIC, MAX_SIDE, MAX_WEIGHTS, Buffer, FormatError, as_array
from keras_prune.symbol_frequencies import symbol_counts
from keras_prune.tensor_header import (
    ELEMENTS,
    HEADER,
    POSITIONS,
    VALUES,
    VERSION,
    TensorHeader,
    checked_header,
    read_header,
    table_of,
)
from keras_prune.tensor_layout import Layout, best_layout
from keras_prune.unit_grid import UnitGrid

__all__ = [
    "FormatError",
    "TensorHeader",
    "as_matrix_shape",
    "check",
    "decode",
    "decode_codes",
    "encode_codes",
    "encode_exact",
    "encode_scaled",
    "read_header",
]
_CHUNK = 1 << 22  # weights looked at once


def as_matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The matrix that a tensor is stored as: its first dimension by the product of the others.

    Args:
        shape: of a constant in a .tflite file; rank 1 is one row.

    Returns:
        ``(rows, cols)``.

    Example:
        >>> as_matrix_shape((64, 3, 3, 16)), as_matrix_shape((10,))
        ((64, 144), (1, 10))
    """
    shape = tuple(int(side) for side in shape)
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def encode_codes(codes: np.ndarray, codebook: np.ndarray, *, layout: Layout | None = None) -> bytes:
    """Packs a matrix of codebook codes.

    Args:
        codes: (rows, cols) uint8; code 0 marks a pruned weight.
        codebook: (size,) float32, size 1 to 256, finite, ``codebook[0] == 0``.
        layout: how kept weights are found; by default what needs the fewest bytes.

    Returns:
        The packed buffer; `decode_codes` gives both back, bit for bit.

    Raises:
        ValueError: the arrays are not of these shapes, types or ranges.

    Example:
        >>> import numpy as np
        >>> packed = encode_codes(np.array([[0, 1], [2, 0]], np.uint8), np.array([0, 0.5, -1], np.float32))
        >>> decode(packed).tolist()
        [[0.0, 0.5], [-1.0, 0.0]]
    """
    codes, codebook = np.asarray(codes), np.asarray(codebook, np.float32)
    _check_matrix("codes", codes, ("uint8",))
    if codebook.ndim != 1 or not 1 <= len(codebook) <= 256:
        raise ValueError(f"codebook: expected 1 to 256 values in one dimension, got shape {codebook.shape}")
    if not np.isfinite(codebook).all():
        raise ValueError("codebook: expected finite values, got NaN or infinity; look for diverged weights")
    if codebook[0] != 0 or np.signbit(codebook[0]):
        raise ValueError(f"codebook: expected 0.0 for code 0, the pruned weights, got {codebook[0]}")
    if int(codes.max()) >= len(codebook):
        raise ValueError(f"codes: expected values below the codebook's size {len(codebook)}, got {codes.max()}")
    table = codebook[1:].astype("<f4").tobytes()
    return _encode(codes, "codebook", table=table, codebook_size=len(codebook), layout=layout)


def encode_scaled(codes: np.ndarray, scales: np.ndarray, *, layout: Layout | None = None) -> bytes:
    """Packs a matrix of int8 codes with a scale for each row: weight = code * scale[row].

    Args:
        codes: (rows, cols) int8; code 0 marks a pruned weight.
        scales: (rows,) float32, finite and not negative.
        layout: how kept weights are found; by default what needs the fewest bytes.

    Returns:
        The packed buffer; `decode` gives ``codes * scales[:, None]`` in float32.

    Raises:
        ValueError: the arrays are not of these shapes, types or ranges.

    Example:
        >>> import numpy as np
        >>> decode(encode_scaled(np.array([[0, 3], [-2, 0]], np.int8), np.array([0.5, 2], np.float32))).tolist()
        [[0.0, 1.5], [-4.0, 0.0]]
    """
    codes, scales = np.asarray(codes), np.asarray(scales, np.float32)
    _check_matrix("codes", codes, ("int8",))
    if scales.shape != codes.shape[:1]:
        raise ValueError(f"scales: expected one for each of the {codes.shape[0]} rows, got shape {scales.shape}")
    if not np.isfinite(scales).all() or np.signbit(scales).any():
        raise ValueError("scales: expected finite values of at least 0.0, got others; look for diverged weights")
    return _encode(codes.view(np.uint8), "scaled", table=scales.astype("<f4").tobytes(), layout=layout)


def encode_exact(
    values: np.ndarray, *, fill: int = 0, allow_float16: bool = True, layout: Layout | None = None
) -> bytes:
    """Packs a matrix so that every bit comes back, negative zeros and the payloads of NaNs included.

    float32 values that are all float16 values are stored as those, and float32 matrices of few values as a codebook,
    where that is smaller.

    Args:
        values: (rows, cols) float32, float16, int8 or uint8.
        fill: int8 and uint8: the value that marks a pruned weight (the zero point); floats: 0, for +0.0.
        allow_float16: float32 may be stored as float16; `decode` then gives float16, exact after ``astype``.
        layout: how kept weights are found; by default what needs the fewest bytes.

    Returns:
        The packed buffer.

    Raises:
        ValueError: the array is not of these shapes or types, or ``fill`` not of this range.

    Example:
        >>> import numpy as np
        >>> decode(encode_exact(np.array([[-0.0, 0.1]], np.float32))).tolist() == [[-0.0, np.float32(0.1)]]
        True
    """
    values = np.asarray(values)
    _check_matrix("values", values, ELEMENTS)
    if values.dtype.itemsize > 1 and fill != 0:
        raise ValueError(f"fill: expected 0 for {values.dtype}, got {fill}")
    if values.dtype.itemsize == 1 and not np.iinfo(values.dtype).min <= fill <= np.iinfo(values.dtype).max:
        raise ValueError(f"fill: expected a value of {values.dtype}, got {fill}")
    if values.dtype == np.float32:
        few = value_coding.few_values(values)
        if few is not None:
            return encode_codes(*few, layout=layout)
        if allow_float16 and (half := value_coding.as_float16(values)) is not None:
            values = half
    raw = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    return _encode(raw, "split", element=values.dtype.name, fill=fill & 255, layout=layout)


def decode(packed: Buffer) -> np.ndarray:
    """Unpacks a buffer, checking every rule of the format.

    Time and memory follow rows * cols, which a buffer of a few bytes may claim to be thousands of millions: compare
    `read_header` with what you know of the tensor first.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        (rows, cols) of the stored type; float32 for a codebook and for scaled codes.

    Raises:
        FormatError: truncated, corrupt, of another version, or a rule is broken.
        TypeError: not bytes at all.
    """
    data = as_array(packed).tobytes()
    header = checked_header(data)
    raw = _decode_raw(header, data)
    table = table_of(header, data)
    if header.values == "codebook":
        return np.concatenate([np.zeros(1, np.float32), table])[raw]
    if header.values == "scaled":
        with np.errstate(over="ignore"):  # a huge scale: infinite weights, as in C++
            return raw.view(np.int8) * table[:, None]
    return raw.view(header.element)


def decode_codes(packed: Buffer) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks a buffer of codebook codes; raises as `decode` does.

    Args:
        packed: the buffer, its header's ``values`` being "codebook".

    Returns:
        ``(codes, codebook)``: (rows, cols) uint8 and (size,) float32.

    Raises:
        FormatError: no codebook; truncated, corrupt, of another version, or a rule is broken.
    """
    data = as_array(packed).tobytes()
    header = checked_header(data)
    if header.values != "codebook":
        raise FormatError(f"packed weights: expected a codebook, got {header.values} values; use tensor_format.decode")
    table = table_of(header, data)
    return _decode_raw(header, data), np.concatenate([np.zeros(1, np.float32), table])


def check(packed: Buffer) -> TensorHeader:
    """Checks every rule of the format as `decode` does, without making the matrix.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        The header.

    Raises:
        FormatError: truncated, corrupt, of another version, or a rule is broken.
        TypeError: not bytes at all.
    """
    data = as_array(packed).tobytes()
    header = checked_header(data)
    _read_units(header, data)
    for chunk in _symbol_stream(header, data).chunks():
        _check_symbols(header, chunk)
    return header


def _check_matrix(name: str, matrix: np.ndarray, types: Sequence[str]) -> None:
    if matrix.ndim != 2 or matrix.dtype.name not in types or 0 in matrix.shape:
        raise ValueError(
            f"{name}: expected a non-empty array of shape (rows, cols) and type {' or '.join(types)}, got "
            f"{matrix.dtype} {matrix.shape}"
        )
    if matrix.size > MAX_WEIGHTS or max(matrix.shape) > MAX_SIDE:
        raise ValueError(
            f"{name}: expected at most {MAX_WEIGHTS} weights in a layer and {MAX_SIDE} rows and columns, got shape "
            f"{matrix.shape}; split the layer"
        )


def _encode(
    raw: np.ndarray,
    values: str,
    *,
    element: str = "float32",
    fill: int = 0,
    table: bytes = b"",
    codebook_size: int = 0,
    layout: Layout | None = None,
) -> bytes:
    """The buffer of a matrix of unsigned integers, ``fill`` being the pruned weight's."""
    raw = np.ascontiguousarray(raw)
    mask = raw != fill
    pruned = value_coding.symbols_and_low(np.array([fill], raw.dtype))
    layout = layout or best_layout(
        mask, _kept_counts(raw, mask), pruned_symbol=int(pruned[0][0]), low_bytes=len(pruned[1])
    )
    grid = UnitGrid.of(raw.shape, layout.block)
    kept = grid.kept(mask)
    symbols, low = _stored(raw, grid, kept if layout.positions != "all" else np.ones_like(kept))
    num_units = grid.num_units if layout.positions == "all" else int(np.count_nonzero(kept))
    body = table + _encoded_positions(kept, layout) + entropy_coding.encode(symbols) + low.tobytes()
    num_bytes = HEADER.size + len(body)
    if num_bytes > MAX_WEIGHTS:
        raise ValueError(f"values: the packed buffer would need {num_bytes} bytes, over the format's 4 GiB")
    kinds = (POSITIONS.index(layout.positions), VALUES.index(values), ELEMENTS.index(element))
    sizes = (*raw.shape, *layout.block, num_units, layout.escape, fill, codebook_size, num_bytes)
    head = HEADER.pack(MAGIC, VERSION, *kinds, *sizes, 0)
    return head[:CRC_OFFSET] + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def _kept_counts(raw: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How often each symbol occurs among the weights that are not pruned, (256,) int64."""
    counts = np.zeros(256, np.int64)
    flat, kept = raw.reshape(-1), mask.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK][kept[start : start + _CHUNK]]
        counts += symbol_counts(value_coding.symbols_and_low(part)[0])
    return counts


def _stored(raw: np.ndarray, grid: UnitGrid, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and low bytes of all weights of the kept units, in the order of the format."""
    flat = raw.reshape(-1)
    parts = [(np.zeros(0, np.uint8), np.zeros(0, np.uint8))]
    for start in range(0, len(kept), _CHUNK):
        units = np.flatnonzero(kept[start : start + _CHUNK]) + start
        parts += [value_coding.symbols_and_low(flat[chunk]) for chunk in grid.weights(units)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _encoded_positions(kept: np.ndarray, layout: Layout) -> bytes:
    if layout.positions == "all":
        return b""
    if layout.positions == "gaps":
        return entropy_coding.encode(position_coding.gap_symbols(kept, layout.escape))
    return entropy_coding.encode(position_coding.bitmap_symbols(kept))


def _read_units(header: TensorHeader, data: bytes) -> np.ndarray:
    """The numbers of the kept units, int64, everything about them checked."""
    num_units = header.grid.num_units
    if header.positions == "all":
        units = np.arange(num_units)
    else:
        symbols = entropy_coding.read(memoryview(data)[HEADER.size + header.table_bytes :]).decode()
        if header.positions == "gaps":
            units = position_coding.units_of_gaps(
                symbols, header.escape, num_kept=header.num_units, num_units=num_units
            )
        else:
            units = position_coding.units_of_bitmap(symbols, num_kept=header.num_units, num_units=num_units)
    if header.grid.num_weights(units) != header.num_values:
        raise FormatError("packed weights: the count of values is wrong; the buffer was not made by keras_prune")
    return units


def _symbol_stream(header: TensorHeader, data: bytes) -> entropy_coding.Stream:
    return entropy_coding.read(memoryview(data)[HEADER.size + header.table_bytes + header.position_bytes :])


def _check_symbols(header: TensorHeader, symbols: np.ndarray) -> None:
    if header.values == "codebook" and len(symbols) and int(symbols.max()) >= header.codebook_size:
        raise FormatError("packed weights: a code exceeds the codebook; the buffer was not made by keras_prune")


def _decode_raw(header: TensorHeader, data: bytes) -> np.ndarray:
    """The matrix as unsigned integers: codes, or the bits of the stored type."""
    itemsize = 1 if header.values != "split" else np.dtype(header.element).itemsize
    units = _read_units(header, data)
    symbols = _symbol_stream(header, data).decode()
    _check_symbols(header, symbols)
    low = np.frombuffer(data, np.uint8, header.low_bytes, header.num_bytes - header.low_bytes)
    flat = np.full(header.rows * header.cols, header.fill, f"u{itemsize}")
    at, num_low = 0, header.low_bytes // max(header.num_values, 1)
    for chunk in header.grid.weights(units):
        end = at + len(chunk)
        flat[chunk] = value_coding.joined(symbols[at:end], low[num_low * at : num_low * end], itemsize)
        at = end
    return flat.reshape(header.rows, header.cols)
