"""Which axes of a kernel count its outputs, and the kernel as a matrix in packed order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# -1 for most kernels; -2 for transposed convolutions; (-2, -1) for depthwise ones and attention's query, key and value.
OutputAxes = int | tuple[int, ...]


def standardize_axes(axes: Any) -> OutputAxes | None:
    """Output axes as an int or a tuple of others, so that equal values are equal and JSON's lists are taken back."""
    if axes is None:
        return None
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    return given[0] if len(given) == 1 else given


def to_rows(array: np.ndarray, output_axes: OutputAxes | None = None) -> np.ndarray:
    """A kernel as a matrix in packed order: one row for each output, its inputs in the row.

    Args:
        array: two dimensions or more.
        output_axes: the axes that count outputs; None: the last. The others, in their order, count inputs.

    Returns:
        (outputs, inputs), maybe a view.

    Raises:
        ValueError: an axis that the array does not have, or none left for the inputs.
    """
    axes = _tuple(output_axes)
    if array.ndim < 2 or not all(-array.ndim <= axis < array.ndim for axis in axes) or len(axes) >= array.ndim:
        raise ValueError(
            f"output_axes: expected axes of the weight that leave at least one for its inputs, got {output_axes} for "
            f"shape {array.shape}"
        )
    moved = np.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), -1)


def from_rows(rows: np.ndarray, shape: tuple[int, ...], output_axes: OutputAxes | None = None) -> np.ndarray:
    """The inverse of `to_rows`: a kernel of this shape."""
    axes = _tuple(output_axes)
    moved = np.moveaxis(np.broadcast_to(np.False_, shape), axes, range(len(axes))).shape
    return np.moveaxis(rows.reshape(moved), range(len(axes)), axes)


def _tuple(axes: OutputAxes | None) -> tuple[int, ...]:
    if axes is None:
        return (-1,)
    return (axes,) if isinstance(axes, int) else axes
