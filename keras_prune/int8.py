"""Weights -> 8-bit codes and a scale for each output. A pruned weight (exactly zero) is code 0 and stays exactly zero.

Symmetric, per output channel, as TensorFlow Lite's int8 weights are (https://arxiv.org/abs/1806.08342, section 3.1).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune.registry import Value, register_with_keras

LARGEST_CODE = 127  # -128 is left out: both signs reach equally far, so that zero is a code
_SMALLEST = np.float32(2.0**-149)  # the smallest float32 above zero
_LARGEST = np.finfo(np.float32).max


@dataclasses.dataclass(frozen=True)
class Int8(Value):
    """Each output's weights become ``code * scale`` with ``scale = max|w| / 127`` and ``code = round(w / scale)``.

    The largest error of a weight is ``max|w| / 254`` of its own output.

    Example:
        >>> import numpy as np
        >>> codes, scales = Int8().fit(np.array([[0.0, 1.27, -0.5], [0.0, 254.0, 3.0]]))
        >>> codes.tolist(), scales.tolist()
        ([[0, 127, -50], [0, 127, 2]], [0.009999999776482582, 2.0])

    Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"
    (https://arxiv.org/abs/1806.08342).
    """

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`: none."""
        register_with_keras(Int8)  # Keras asks for them, and may have been imported after this module
        return super().get_config()

    def fit(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fits the scales of one layer.

        Fitting the quantized weights again gives the same codes and scales.

        Args:
            weights: (outputs, inputs) float; zeros are pruned weights.

        Returns:
            ``(codes, scales)``: int8 of the same shape, -127 to 127, and (outputs,) float32, above 0;
            ``codes * scales[:, None]`` are the quantized weights.

        Raises:
            ValueError: no matrix, or a weight is NaN or infinite.
        """
        weights = np.asarray(weights, np.float32)
        if weights.ndim != 2:
            raise ValueError(f"Int8.fit: expected a matrix (outputs, inputs), got shape {weights.shape}; reshape it")
        if not np.isfinite(weights).all():
            raise ValueError("Int8.fit: expected finite weights, got NaN or infinity; look for diverged training")
        scales = _scales(np.abs(weights).max(axis=1, initial=0))
        codes = np.rint(weights / scales[:, None].astype(np.float64))
        return np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int8), scales


def _scales(largest: np.ndarray) -> np.ndarray:
    """Scales by which each largest weight comes back with code 127; 1 for an output without weights."""
    with np.errstate(over="ignore", under="ignore"):
        scales = largest / np.float32(LARGEST_CODE)
        for _ in range(3):  # division and product round: until the quantized weights have this scale themselves
            scales = np.minimum(scales * np.float32(LARGEST_CODE), _LARGEST) / np.float32(LARGEST_CODE)
        # Below float32's normal numbers rounding would leave the largest weight out of reach.
        scales = np.where(scales * np.float32(LARGEST_CODE) < largest * np.float32(0.999), scales + _SMALLEST, scales)
        # Beyond float32's largest number code 127 would be infinite.
        scales = np.where(np.isinf(scales * np.float32(LARGEST_CODE)), np.nextafter(scales, np.float32(0)), scales)
    return np.where(largest > 0, np.maximum(scales, _SMALLEST), 1).astype(np.float32)


register_with_keras(Int8)
