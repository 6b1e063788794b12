"""What the kernels make of packed weights: asked of the C++ program `layout_report`."""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

_SUMS = ("kept", "entries", "packed_bytes", "layout_bytes")


def report(program: str, packed: Sequence[bytes], *, batch: int = 1, activations: str = "float32") -> dict[str, Any]:
    """The kernels of some layers, and the bytes of all their compute layouts.

    Args:
        program: path of `layout_report`; `make bench` builds it.
        packed: weights of each layer in the storage format.
        batch: rows that the layouts are made for.
        activations: "float32" or "int8".

    Returns:
        "isa", "kernels", and the sums "kept", "entries", "packed_bytes", "layout_bytes".

    Raises:
        FileNotFoundError: the program has not been built.
    """
    if not pathlib.Path(program).is_file():
        raise FileNotFoundError(f"expected the program {program}; build it with `make build/bench/layout_report`")
    rows = [_of_one(program, data, str(batch), activations) for data in packed]
    sums = {key: sum(row[key] for row in rows) for key in _SUMS}
    return {"isa": rows[0]["isa"], "kernels": [row["kernel"] for row in rows], **sums}


def _of_one(program: str, packed: bytes, *arguments: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".packed") as file:
        file.write(packed)
        file.flush()
        command = [program, file.name, *arguments]
        return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
