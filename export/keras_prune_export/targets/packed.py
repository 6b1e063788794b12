"""The packed target: weights in the storage formats, run through the delegate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from keras_prune import sparse_format, tensor_format

COMPUTE = "KerasPruneFullyConnected"  # computes on packed weights, as does the next
CONVOLVE = "KerasPruneConv2D"
EXPAND = "KerasPruneUnpack"  # expands packed weights at load
STANDS_FOR = {COMPUTE: "FULLY_CONNECTED", CONVOLVE: "CONV_2D"}  # the operators that compute
# A few bytes may claim thousands of millions of zeros; real layers are not that empty.
_MOST_WEIGHTS_PER_BYTE = 2**14
_FREE_WEIGHTS = 2**20


@dataclasses.dataclass(frozen=True)
class Layer:
    """What became of one layer's weights.

    Attributes:
        name: of the weights, as in the file.
        shape: of the dense weights.
        form: "compute" on the packed weights, "expand" them at load, or "stock": as they were.
        reason: why this form; empty where it is read from a file.
        kept: weights that are not zero.
        fillers: version 1: stored zeros that bridge gaps too large for ``gap_bits``.
        gap_bits: version 1: bits of one gap.
        code_bits: version 1: bits of one code.
        header_bytes: of the packed buffer's header.
        codebook_bytes: of its codebook, or the scales of its rows.
        gap_bytes: of the positions of kept weights.
        code_bytes: of the codes, exponents or bytes of kept weights.
        low_bytes: of the bits of kept weights that are stored as they are.
        activations: of a layer that computes on packed weights: "float32" or "int8"; else empty.
    """

    name: str
    shape: tuple[int, ...]
    form: str = "stock"
    reason: str = ""
    kept: int = 0
    fillers: int = 0
    gap_bits: int = 0
    code_bits: int = 0
    header_bytes: int = 0
    codebook_bytes: int = 0
    gap_bytes: int = 0
    code_bytes: int = 0
    low_bytes: int = 0
    activations: str = ""

    @property
    def packed(self) -> bool:
        """Whether the layer's weights are in the packed form."""
        return self.form != "stock"

    @property
    def num_weights(self) -> int:
        """Weights of the layer, zeros included."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed buffer."""
        return self.header_bytes + self.codebook_bytes + self.gap_bytes + self.code_bytes + self.low_bytes

    def to_dict(self) -> dict[str, Any]:
        """The attributes and ``num_bytes``, for JSON."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "num_bytes": self.num_bytes}


def decode(packed: bytes | np.ndarray) -> np.ndarray:
    """The matrix of a packed buffer of either version.

    Raises:
        FormatError: not a packed buffer, damaged, or it claims an absurd number of weights.
    """
    if _version(packed) == sparse_format.VERSION:
        _check_claim(sparse_format.read_header(packed))
        return sparse_format.to_dense(packed)
    _check_claim(tensor_format.read_header(packed))
    return tensor_format.decode(packed)


def matrix_shape(packed: bytes | np.ndarray) -> tuple[int, int]:
    """Rows and columns of a packed buffer of either version.

    Raises:
        FormatError: not a packed buffer, or damaged.
    """
    version_1 = _version(packed) == sparse_format.VERSION
    header: Any = sparse_format.read_header(packed) if version_1 else tensor_format.read_header(packed)
    return header.rows, header.cols


def _version(packed: bytes | np.ndarray) -> int:
    return int(packed[4]) if len(packed) > 4 else 0


def _check_claim(header: Any) -> None:
    if header.rows * header.cols > _FREE_WEIGHTS + _MOST_WEIGHTS_PER_BYTE * header.num_bytes:
        raise sparse_format.FormatError(
            f"packed weights: {header.rows} x {header.cols} weights in {header.num_bytes} bytes; the buffer "
            "was not made by keras_prune's exporter"
        )


def fixed_width(packed: bytes) -> bytes:
    """The same codes as a buffer of version 1, whose gaps and codes have fixed widths.

    Args:
        packed: a buffer of version 2 with a codebook.
    """
    return sparse_format.encode(*tensor_format.decode_codes(packed))


def describe(
    name: str, packed: bytes | np.ndarray, *, form: str, reason: str = "", shape: tuple[int, ...] | None = None
) -> Layer:
    """What a packed buffer holds.

    Args:
        name: of the weights.
        packed: the buffer.
        form: "compute" or "expand".
        reason: why this form.
        shape: of the dense weights; by default the matrix that is packed.

    Raises:
        FormatError: not a packed buffer, damaged, or of other weights than the shape says.
    """
    if _version(packed) == sparse_format.VERSION:
        first = sparse_format.read_header(packed)
        parts = (first.codebook_bytes, first.gap_bytes, first.code_bytes, 0)
        kept, fixed = first.num_kept, (first.num_fillers, first.gap_bits, first.code_bits)
        rows, cols, head = first.rows, first.cols, sparse_format.HEADER.size
    else:
        second = tensor_format.read_header(packed)
        parts = (second.table_bytes, second.position_bytes, second.symbol_bytes, second.low_bytes)
        rows, cols, head, fixed = second.rows, second.cols, second.header_bytes, (0, 0, 0)
        kept = int(np.count_nonzero(decode(packed) != second.fill))
    shape = (rows, cols) if shape is None else shape
    if tensor_format.as_matrix_shape(shape) != (rows, cols):
        raise sparse_format.FormatError(f"packed weights: expected weights of shape {shape}, got {rows} x {cols}")
    return Layer(name, shape, form, reason, kept, *fixed, head, *parts)
