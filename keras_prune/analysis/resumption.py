"""The file of a long measurement: it gets each number as it is made, and a run that was broken off goes on from it."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune.analysis.judge import fingerprint


def fingerprints(model: Any, data: Any) -> dict[str, str]:
    """What tells one model from another, and the data of one run from that of another.

    Args:
        model: a Keras 3 model.
        data: arrays in a tuple or a list; what cannot be known without reading it has the fingerprint "".
    """
    weights = [np.asarray(variable.numpy()) for variable in model.weights]
    return {"weights": fingerprint(weights), "data": fingerprint(data) if isinstance(data, tuple | list) else ""}


def load_rows(path: Any, settings: dict[str, Any], *, name: str, row: Callable[..., Any]) -> list[Any]:
    """The measurements of a run that was broken off.

    Args:
        path: the file; nothing is read where it is None or not there.
        settings: what must be the same there, as JSON has it.
        name: of the public function that writes such files.
        row: makes one measurement from the values of its row; raises TypeError or ValueError for wrong ones.

    Returns:
        What `row` returned, in the file's order.

    Raises:
        ValueError: the file is not of this kind, or of a run with other settings.
    """
    if path is None or not pathlib.Path(path).exists():
        return []
    try:
        content = json.loads(pathlib.Path(path).read_text())
        found = content["settings"]
        different = [key for key in settings if found[key] != settings[key]]
        rows = [] if different else [row(*values) for values in content["points"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"resume: expected a file that `{name}` wrote, got {path}, which is not one") from error
    if different:
        changes = "; ".join(f"{key}: {found[key]!r} there, {settings[key]!r} here" for key in different)
        raise ValueError(
            f"resume: expected the same scan as in {path}, got other settings ({changes}); delete the file to begin "
            "anew, or give another one"
        )
    return rows


def save_rows(path: Any, settings: dict[str, Any], rows: list[list[Any]]) -> None:
    """Writes the measurements, if there is a path to write them to."""
    if path is not None:
        write_json(path, {"settings": settings, "points": rows})


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Replaces the file as a whole, so that a crash leaves the old or the new one."""
    target = pathlib.Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        os.replace(name, target)  # noqa: PTH105
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
