"""The bytes that no coder of independent weights gets below."""

from __future__ import annotations

import math

import numpy as np

from keras_prune import sparse_format, tensor_format
from keras_prune.tensor_header import LOW_BYTES, table_of


def bound_bytes(packed: bytes | np.ndarray) -> float:
    """The entropy of a packed buffer's positions and symbols, without its codebook or scales.

    ``(log2 C(n, k) + sum over kept weights of log2(k / count of its symbol)) / 8``, n weights of which k are kept;
    a symbol is the code, the integer, or the exponent of a float, whose other bits count as they are. Weights that
    depend on their neighbours (blocks, whole rows) can need less.

    Args:
        packed: a buffer of either version.

    Returns:
        Bytes.

    Raises:
        FormatError: not a packed buffer, or damaged.
    """
    data = np.ascontiguousarray(sparse_format.as_array(packed)).data
    if data[4] == sparse_format.VERSION:
        codes, _ = sparse_format.decode(data)
        return _bound(codes.reshape(-1), codes.reshape(-1) != 0)
    header = tensor_format.check(data)
    if header.values == "codebook":
        codes, _ = tensor_format.decode_codes(data)
        return _bound(codes.reshape(-1), codes.reshape(-1) != 0)
    values = tensor_format.decode(data)
    if header.values == "scaled":
        scales = table_of(header, data)[:, None]
        integers = np.rint(np.divide(values, scales, out=np.zeros_like(values), where=scales > 0)).astype(np.int64)
        return _bound(integers.reshape(-1) + 128, integers.reshape(-1) != 0)
    bits = values.reshape(-1).view(f"<u{values.itemsize}")
    shift = {"float32": 23, "float16": 8}.get(header.element, 0)
    kept = bits != header.fill
    return _bound((bits >> shift) & 0xFF, kept) + LOW_BYTES[header.element] * int(np.count_nonzero(kept))


def _bound(symbols: np.ndarray, kept: np.ndarray) -> float:
    counts = np.bincount(symbols[kept])
    counts = counts[counts > 0]
    size, num_kept = len(symbols), int(counts.sum())
    ways = math.lgamma(size + 1) - math.lgamma(num_kept + 1) - math.lgamma(size - num_kept + 1)
    return (ways / math.log(2) + float((counts * np.log2(num_kept / counts)).sum())) / 8
