"""What the C++ program `tf_op_bench` printed."""

from __future__ import annotations

import re
from typing import Any

_LINE = re.compile(
    r"(?P<layer>.+?) +(?P<shape>\d+x\d+) +(?P<activations>float32|int8) +kernel +(?P<kernel_us>[\d.]+) us +"
    r"Compute +(?P<compute_us>[\d.]+) us +added +(?P<added_us>-?[\d.]+) us +\(median of pairs +(?P<median_us>\S+)\)"
)


def read(text: str) -> list[dict[str, Any]]:
    """The rows that the program printed.

    Raises:
        ValueError: there are none.
    """
    rows: list[dict[str, Any]] = []
    for found in _LINE.finditer(text):
        row: dict[str, Any] = found.groupdict()
        rows.append(row | {key: float(value) for key, value in row.items() if key.endswith("_us")})
    if not rows:
        raise ValueError(f"expected the table of tf_op_bench, got {text[:200]!r}; build it again")
    return rows
