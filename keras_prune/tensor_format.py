"""Version 2 of the storage format: any weight tensor as a matrix, its symbols entropy-coded. NumPy only.

Each weight is a symbol (a code, the exponent of a float, a byte) and, for floats, low bytes that do not compress. Kept
weights are found by gaps or a bitmap; gaps and symbols are coded near their entropy (`entropy_coding`). In the end
that is what Deep Compression does with Huffman codes: Han et al. 2016 (https://arxiv.org/abs/1510.00149).

Every byte is described in docs/format.md; ``custom_ops/tensor_format.h`` mirrors this module and both are tested on
the same golden bytes. Version 1, which kernels compute from as it is, is `sparse_format`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_prune import tensor_decoder, tensor_encoder, value_coding
from keras_prune.sparse_format import MAX_SIDE, MAX_WEIGHTS, Buffer, FormatError, as_array
from keras_prune.tensor_header import ELEMENTS, TensorHeader, checked_header, read_header, table_of
from keras_prune.tensor_layout import Layout

__all__ = [
    "FormatError",
    "Layout",
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
_CHUNK = 1 << 20  # weights looked up at once: NumPy makes indices of 8 bytes of them
_TRY_ALL = 1 << 16  # weights up to which the candidates of `encode_exact` are all made


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
    return tensor_encoder.packed(codes, "codebook", table=table, codebook_size=len(codebook), layout=layout)


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
    return tensor_encoder.packed(codes.view(np.uint8), "scaled", table=scales.astype("<f4").tobytes(), layout=layout)


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
    if values.dtype != np.float32:
        return _encode_split(values, fill, layout)
    few = value_coding.few_values(values)
    if few is not None and values.size > _TRY_ALL:  # a code says no more than the symbol and low bytes together
        return encode_codes(*few, layout=layout)
    half = value_coding.as_float16(values) if allow_float16 else None
    split = _encode_split(values if half is None else half, fill, layout)
    return split if few is None else min(encode_codes(*few, layout=layout), split, key=len)


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
    data = _bytes_of(packed)
    header = checked_header(data)
    raw = tensor_decoder.raw_matrix(header, data)
    if header.values == "codebook":
        return _looked_up(_codebook(header, data), raw)
    if header.values == "scaled":
        with np.errstate(over="ignore"):  # a huge scale: infinite weights, as in C++
            return raw.view(np.int8) * table_of(header, data)[:, None]
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
    data = _bytes_of(packed)
    header = checked_header(data)
    if header.values != "codebook":
        raise FormatError(f"packed weights: expected a codebook, got {header.values} values; use tensor_format.decode")
    return tensor_decoder.raw_matrix(header, data), _codebook(header, data)


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
    data = _bytes_of(packed)
    header = checked_header(data)
    tensor_decoder.check_sections(header, data)
    return header


def _bytes_of(packed: Buffer) -> memoryview:
    return np.ascontiguousarray(as_array(packed)).data


def _codebook(header: TensorHeader, data: memoryview) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.float32), table_of(header, data)])


def _looked_up(codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
    values = np.empty(codes.size, np.float32)
    flat = codes.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        values[start : start + _CHUNK] = codebook[flat[start : start + _CHUNK]]
    return values.reshape(codes.shape)


def _encode_split(values: np.ndarray, fill: int, layout: Layout | None) -> bytes:
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(f"u{values.dtype.itemsize}")
    return tensor_encoder.packed(raw, "split", element=values.dtype.name, fill=fill & 255, layout=layout)


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
