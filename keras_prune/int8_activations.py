"""What packed layers compute with ``activations="int8"``, in NumPy, bit for bit; and how far that is from float32.

Symmetric quantization of each row of the activations (of a convolution: of each output pixel's patch) while the model
runs, as TensorFlow Lite's dynamic range has it (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342), and of the
layer's codebook.
"""

from __future__ import annotations

import numpy as np

LARGEST = np.float32(127)  # -128 is left out: both signs reach equally far, so that zero is a whole number
SMALLEST_STEP = np.finfo(np.float32).tiny  # below it, float32 has no inverse


def quantize_rows(x: np.ndarray, scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Quantizes each row: ``round(x / scale)``, halves away from zero, within -127 to 127.

    Args:
        x: (rows, cols) float32.
        scale: one step of x, above 0; None: ``max|x| / 127`` of each row. It is 2^-126 at least.

    Returns:
        ``(values, scales)``: int8 of the same shape, and (rows,) float32: 0 for a row of zeros, NaN for a row with a
        value that is not finite; the values of such rows are zeros.

    Example:
        >>> values, scales = quantize_rows(np.array([[0.0, 1.0, -254.0]], np.float32))
        >>> values.tolist(), scales.tolist()
        ([[0, 1, -127]], [2.0])
    """
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(axis=1, initial=0)
    asked = largest / LARGEST if scale is None else np.full(len(x), scale, np.float32)
    is_plain = np.isfinite(largest) & (largest > 0)
    steps = np.where(is_plain, np.maximum(asked, SMALLEST_STEP), np.float32(1))
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * (np.float32(1) / steps)[:, None]  # as the kernels: one inverse for a row
    moved = scaled + np.where(scaled < 0, np.float32(-0.5), np.float32(0.5))
    values = np.where(is_plain[:, None], np.trunc(np.clip(moved, -LARGEST, LARGEST)), 0).astype(np.int8)
    return values, np.where(is_plain, steps, np.where(largest == 0, np.float32(0), np.float32(np.nan)))


def quantize_codebook(codebook: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Quantizes a layer's shared weights as a row of activations: ``scale = max|w| / 127``.

    Args:
        codebook: (size,) float32.

    Returns:
        ``(values, scale)``: (size,) int8, and float32, 0 for a codebook without other values than zero.
    """
    values, scales = quantize_rows(np.asarray(codebook, np.float32)[None])
    return values[0], scales[0]


def fully_connected(
    x: np.ndarray,
    codes: np.ndarray,
    codebook: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """What the kernels compute: ``y = float32(sum_i x_q[i] w_q[i]) (x_scale w_scale) + bias``; the sum is exact.

    Args:
        x: (batch, cols) float32.
        codes: (rows, cols) uint8.
        codebook: (size,) float32; ``codebook[codes]`` are the weights.
        bias: (rows,) float32, or None.
        scale: one step of x, from calibration; None: of each row.

    Returns:
        (batch, rows) float32; NaN for a row of x with a value that is not finite.

    Example:
        >>> codes, codebook = np.array([[1, 0], [0, 2]]), np.array([0, -1, 63.5], np.float32)
        >>> fully_connected(np.array([[254.0, -2.2]], np.float32), codes, codebook).tolist()  # in float32 -139.7
        [[-254.0, -127.0]]
    """
    values, scales = quantize_rows(x, scale)
    weights, w_scale = quantize_codebook(codebook)
    # Products of integers, whose sums float64 holds exactly.
    sums = values.astype(np.float64) @ weights[codes].astype(np.float64).T
    with np.errstate(over="ignore", invalid="ignore"):
        y = sums.astype(np.float32) * (scales * w_scale)[:, None]
        return y if bias is None else y + np.asarray(bias, np.float32)


def patches(
    images: np.ndarray,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    padding: str = "same",
) -> np.ndarray:
    """What a convolution's output pixels see of the images: the rows of which `fully_connected` is the convolution.

    Args:
        images: (batch, height, width, channels) float32.
        kernel: height and width.
        strides: vertical and horizontal.
        dilations: vertical and horizontal.
        padding: "same": zeros around the image, the smaller half before it; or "valid".

    Returns:
        (batch, output height, output width, kernel height * kernel width * channels) float32.

    Example:
        >>> patches(np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1), (2, 1)).reshape(4, 2).tolist()
        [[0.0, 2.0], [1.0, 3.0], [2.0, 0.0], [3.0, 0.0]]
    """
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if padding == "same":
        missing = [
            max((-(-side // stride) - 1) * stride + extent - side, 0)
            for side, stride, extent in zip(images.shape[1:3], strides, extents, strict=True)
        ]
        images = np.pad(images, [(0, 0), *((some // 2, some - some // 2) for some in missing), (0, 0)])
    seen = np.lib.stride_tricks.sliding_window_view(images, extents, (1, 2))
    seen = seen[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return np.moveaxis(seen, 3, 5).reshape(*seen.shape[:3], -1)


def error_bound(x: np.ndarray, codes: np.ndarray, codebook: np.ndarray, *, scale: float | None = None) -> np.ndarray:
    """How far int8 activations can take an output from the exact sum of float32 products.

    ``x_scale / 2 * sum_i |w_i| + w_scale / 2 * sum_i (|x_i| + x_scale / 2)``, over the kept weights: each factor is
    off by half a step at most. It holds for values within ``127 scale``; beyond, a scale from calibration clips.

    Args:
        x: (batch, cols) float32.
        codes: (rows, cols) uint8.
        codebook: (size,) float32.
        scale: one step of x, from calibration; None: of each row.

    Returns:
        (batch, rows) float64, before rounding to float32 (a few 2^-23 of the output's terms).
    """
    steps = quantize_rows(x, scale)[1].astype(np.float64)[:, None]
    w_step = float(quantize_codebook(codebook)[1])
    weights = np.abs(np.asarray(codebook, np.float64)[codes])
    kept = (codes != 0).astype(np.float64)
    reach = (np.abs(np.asarray(x, np.float64)) + steps / 2) @ kept.T
    return steps / 2 * weights.sum(axis=1) + w_step / 2 * reach
