"""What the options of operators that compute on packed weights say of their arithmetic (docs/format.md)."""

from __future__ import annotations

import math
import struct

PLAIN, STATIC = 1, 2  # versions of the options: the second one is int8 with one step of x
KINDS = ("float32", "int8")  # of version 1, by number


def version(activations: str, x_scale: float | None) -> int:
    """The version of the options that say this.

    Args:
        activations: one of `KINDS`.
        x_scale: one step of x; None: float32, or a step for each row.

    Raises:
        ValueError: no such kind, or a scale of float32 activations.
    """
    if activations not in KINDS or (x_scale is not None and activations != "int8"):
        raise ValueError(f"expected activations of {KINDS}, x_scale for int8 only, got {activations!r}, {x_scale}")
    return PLAIN if x_scale is None else STATIC


def read_scale(data: bytes) -> float | None:
    """The step of x in four bytes; None: they hold none that is finite and above 0."""
    scale = float(struct.unpack("<f", data)[0])
    return scale if math.isfinite(scale) and scale > 0 else None
