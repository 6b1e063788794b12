"""The packed target: pruned matrices in the relative-index storage format, run through the delegate."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune import sparse_format
from keras_prune.quantization import Codebook

OPERATOR = "KerasPruneFullyConnected"
ROUNDING = 2.0**-20  # relative: eight times float32's epsilon, for a few multiplications


@dataclasses.dataclass(frozen=True)
class Layer:
    """What became of one layer's weights.

    Attributes:
        name: of the weights, as in the file.
        shape: (outputs, inputs).
        reason: why the layer was not packed; empty when it was.
        kept: weights that are not zero.
        fillers: stored zeros that bridge gaps too large for ``gap_bits``.
        gap_bits: bits of one gap.
        code_bits: bits of one code.
        header_bytes: of the packed buffer's header.
        codebook_bytes: of its codebook.
        gap_bytes: of its gaps.
        code_bytes: of its codes.
    """

    name: str
    shape: tuple[int, ...]
    reason: str = ""
    kept: int = 0
    fillers: int = 0
    gap_bits: int = 0
    code_bits: int = 0
    header_bytes: int = 0
    codebook_bytes: int = 0
    gap_bytes: int = 0
    code_bytes: int = 0

    @property
    def packed(self) -> bool:
        """Whether the layer's weights are in the packed form."""
        return not self.reason

    @property
    def num_weights(self) -> int:
        """Weights of the layer, zeros included."""
        return int(np.prod(self.shape))

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed buffer."""
        return self.header_bytes + self.codebook_bytes + self.gap_bytes + self.code_bytes

    def to_dict(self) -> dict[str, Any]:
        """The attributes and ``num_bytes``, for JSON."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "num_bytes": self.num_bytes}


def why_not(weights: np.ndarray, min_sparsity: float) -> str:
    """Why the target does not hold a matrix; empty when it does, as far as can be said before it is packed.

    Args:
        weights: (outputs, inputs) float32.
        min_sparsity: least fraction of exact zeros, 0 to 1.
    """
    if weights.size > sparse_format.MAX_WEIGHTS:
        return f"{weights.size} weights are more than a packed buffer holds"
    if not np.isfinite(weights).all():
        return "a weight is NaN or infinite"
    sparsity = 1 - np.count_nonzero(weights) / weights.size
    if sparsity < min_sparsity:
        return f"not pruned: {sparsity:.1%} of the weights are zero, below min_sparsity={min_sparsity:g}"
    return ""


def store(weights: np.ndarray, codebook: Codebook, min_sparsity: float) -> tuple[bytes | None, str]:
    """Packs one matrix.

    Args:
        weights: (outputs, inputs) float32; exact zeros are pruned weights.
        codebook: how the kept weights are quantized; at most ``2**bits - 1`` distinct ones stay exact.
        min_sparsity: least fraction of exact zeros, 0 to 1.

    Returns:
        ``(packed, "")``, or ``(None, reason)`` when the matrix is not pruned or packing does not make it smaller.
    """
    reason = why_not(weights, min_sparsity)
    if reason:
        return None, reason
    packed = sparse_format.encode(*codebook.fit(_without_rounding(weights, codebook)))
    if len(packed) >= weights.nbytes:
        return None, f"packed it would need {len(packed)} bytes, dense it needs {weights.nbytes}"
    return packed, ""


def _without_rounding(weights: np.ndarray, codebook: Codebook) -> np.ndarray:
    """Merges values that differ by float32 rounding only, when that leaves no more than the codebook holds.

    The converter folds a neighbour's scale (BatchNormalization, Rescaling) into weights that were already quantized:
    each shared value comes back as several that differ in their last bits.
    """
    distinct = np.unique(weights[weights != 0])
    limit = (1 << codebook.bits) - 1
    if len(distinct) <= limit:
        return weights
    steps = np.diff(distinct) > ROUNDING * np.abs(distinct[1:])
    group = np.concatenate([[0], np.cumsum(steps)])
    if group[-1] + 1 > limit:
        return weights
    first = np.flatnonzero(np.concatenate([[True], steps]))
    middles = distinct[(first + np.append(first[1:], len(distinct)) - 1) // 2]
    merged = np.zeros_like(weights)
    kept = weights != 0
    merged[kept] = middles[group[np.searchsorted(distinct, weights[kept])]]
    return merged


def describe(name: str, packed: bytes | np.ndarray) -> Layer:
    """What a packed buffer holds, from its header.

    Raises:
        FormatError: not a packed buffer.
    """
    header = sparse_format.read_header(packed)
    return Layer(
        name=name,
        shape=(header.rows, header.cols),
        kept=header.num_kept,
        fillers=header.num_fillers,
        gap_bits=header.gap_bits,
        code_bits=header.code_bits,
        header_bytes=sparse_format.HEADER.size,
        codebook_bytes=header.codebook_bytes,
        gap_bytes=header.gap_bytes,
        code_bytes=header.code_bytes,
    )
