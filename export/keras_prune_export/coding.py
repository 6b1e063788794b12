"""One weight and its scheme -> the packed bytes, or the values that they stand for."""

from __future__ import annotations

import numpy as np

from keras_prune import tensor_format
from keras_prune.int8 import Int8
from keras_prune.quantization import Codebook, merge_rounding
from keras_prune_export.schemes import Scheme

_LARGEST_FLOAT16 = 65504.0


def pack(values: np.ndarray, scheme: Scheme, *, fill: int = 0) -> bytes:
    """One weight as a packed buffer of version 2 (docs/format.md).

    Args:
        values: in the file's shape: float32 or float16, for "lossless" also int8 or uint8.
        scheme: what to make of it.
        fill: for "lossless" and integers: the value of a pruned weight (uint8: the zero point).

    Returns:
        The bytes; `keras_prune.tensor_format.decode` gives the values back, in the matrix
        `keras_prune.tensor_format.as_matrix_shape`.

    Raises:
        TypeError: a scheme for floats, and the values are integers.
        ValueError: a value is NaN, infinite, or beyond the range of float16, and the scheme cannot hold it.
    """
    matrix = _matrix(values)
    if scheme != "lossless":
        _check_floats(matrix, scheme)
    if isinstance(scheme, Codebook):
        return tensor_format.encode_codes(*_codes(matrix, scheme))
    if isinstance(scheme, Int8):
        return tensor_format.encode_scaled(*scheme.fit(matrix))
    if scheme == "float16":
        return tensor_format.encode_exact(_float16(matrix))
    return tensor_format.encode_exact(matrix, fill=fill)


def quantized(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The values that the packed form of a weight stands for, without packing it; the same shape and type.

    Raises:
        TypeError: a scheme for floats, and the values are integers.
        ValueError: a value that the scheme cannot hold.
    """
    values = np.asarray(values)
    if scheme == "lossless":
        return values
    matrix = _matrix(values)
    _check_floats(matrix, scheme)
    if isinstance(scheme, Codebook):
        codes, codebook = _codes(matrix, scheme)
        result = codebook[codes]
    elif isinstance(scheme, Int8):
        codes, scales = scheme.fit(matrix)
        result = codes * scales[:, None]
    else:
        result = _float16(matrix)
    return result.astype(values.dtype).reshape(values.shape)


def _matrix(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(tensor_format.as_matrix_shape(np.shape(values)))


def _check_floats(matrix: np.ndarray, scheme: Scheme) -> None:
    if matrix.dtype not in (np.float32, np.float16):
        raise TypeError(f"expected float weights for {scheme!r}, got {matrix.dtype}; integers are kept by 'lossless'")


def _codes(matrix: np.ndarray, scheme: Codebook) -> tuple[np.ndarray, np.ndarray]:
    return scheme.fit(merge_rounding(matrix.astype(np.float32, copy=False), (1 << scheme.bits) - 1))


def _float16(matrix: np.ndarray) -> np.ndarray:
    """Rounded to float16; a weight that is not zero may become zero, a zero stays one."""
    largest = np.abs(matrix).max(initial=0)
    if not largest <= _LARGEST_FLOAT16:
        raise ValueError(
            f"expected weights within float16's range, at most {_LARGEST_FLOAT16:g}, for 'float16', got {largest:g}; "
            "use 'lossless' for this layer"
        )
    return matrix.astype(np.float16)
