"""Weights -> codebook and codes. A pruned weight (exactly zero) is code 0 and stays exactly zero.

Weight sharing by one-dimensional k-means, a codebook per layer: Han, Mao and Dally 2016, "Deep
Compression" (https://arxiv.org/abs/1510.00149).
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np

from keras_prune.kmeans import kmeans
from keras_prune.registry import register_with_keras

ROUNDING = 2.0**-20  # relative: eight times float32's epsilon, for a few multiplications


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Shared weights: each layer's kept weights become one of 2**bits - 1 values; code 0 is the zero.

    Args:
        bits: bits of one code, 2 to 8.
        optimum: take the values of least squared error. By default those that Lloyd's iterations reach from values
            spread evenly over the range: the error of single weights is larger, but the rare large weights keep values
            of their own, and the codes need fewer bits after entropy coding (docs/quantization.md).

    Raises:
        TypeError: ``optimum`` is no bool.
        ValueError: ``bits`` out of range.

    Example:
        >>> import numpy as np
        >>> codes, codebook = Codebook(bits=2).fit(np.array([[0.0, 1.0], [1.2, -3.0]]))
        >>> codes.tolist(), codebook.tolist()
        ([[0, 2], [3, 1]], [0.0, -3.0, 1.0, 1.2000000476837158])
    """

    bits: int = 4
    optimum: bool = False

    def __post_init__(self) -> None:
        try:
            bits = 0 if isinstance(self.bits, bool) else operator.index(self.bits)  # NumPy's integers too
        except TypeError:
            bits = 0
        if not 2 <= bits <= 8:
            raise ValueError(f"Codebook: expected bits from 2 to 8, got {self.bits!r}; pass an integer such as 4")
        if not isinstance(self.optimum, bool):
            raise TypeError(f"Codebook: expected optimum to be True or False, got {self.optimum!r}")
        object.__setattr__(self, "bits", bits)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        register_with_keras(Codebook)  # Keras asks for them, and may have been imported after this module
        return {"bits": self.bits, "optimum": self.optimum}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Codebook:
        """Makes the object from `get_config`'s result."""
        return cls(**config)

    def fit(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fits the codebook of one layer.

        The result depends on the multiset of values only, not on their order, so that a kernel and its
        transpose get the same codebook. At most 2**bits - 1 distinct non-zero values are kept exactly. Where the
        weights around zero share a centroid of exactly zero, they become pruned weights.

        Args:
            weights: any shape, float; zeros are pruned weights.

        Returns:
            ``(codes, codebook)``: uint8 of the same shape, and (size,) float32 in ascending order after
            the zero of code 0; ``codebook[codes]`` are the quantized weights.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        weights = np.asarray(weights, np.float32)
        if not np.isfinite(weights).all():
            raise ValueError("Codebook.fit: expected finite weights, got NaN or infinity; look for diverged training")
        values = np.sort(weights[weights != 0])
        distinct = np.unique(values)
        limit = (1 << self.bits) - 1
        if len(distinct) <= limit:
            return _assign(weights, distinct)
        return _assign(weights, kmeans(values.astype(np.float64), limit, optimum=self.optimum))


def merge_rounding(weights: np.ndarray, limit: int) -> np.ndarray:
    """Merges values that differ by float32 rounding only, where that leaves no more than a codebook holds.

    A converter that folds a neighbour's scale (BatchNormalization, Rescaling) into weights that were quantized already
    gives each shared value back as several that differ in their last bits.

    Args:
        weights: any shape, float32.
        limit: number of distinct values that may be left, zero not counted.

    Returns:
        The weights, with each group of values replaced by its middle one; unchanged where they are more than `limit`.
    """
    distinct = np.unique(weights[weights != 0])
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


register_with_keras(Codebook)


def _assign(weights: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid of every weight; those nearest to a centroid of exactly zero become pruned weights."""
    kept = centroids != 0
    codebook = np.concatenate([np.zeros(1, np.float32), centroids[kept]])
    if not len(centroids):
        return np.zeros(weights.shape, np.uint8), codebook
    code_of = np.where(kept, np.cumsum(kept), 0).astype(np.uint8)
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    codes = code_of[np.searchsorted(middles, weights.astype(np.float64))]
    codes[weights == 0] = 0
    return codes, codebook
