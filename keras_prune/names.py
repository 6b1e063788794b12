"""Names of layers and weights, and regular expressions for them."""

from __future__ import annotations

import re
from collections.abc import Iterable


def matches(key: str, path: str) -> bool:
    """Whether a name or regular expression means the weight at `path`.

    Args:
        key: a weight's path (``"dense/kernel"``), a part of it between slashes (``"dense"``, ``"encoder/dense"``),
            or a regular expression that matches the whole path or one of its parts.
        path: the weight's path in the model, such as ``"encoder/dense/kernel"``.
    """
    if f"/{key}/" in f"/{path}/":
        return True
    try:
        return any(re.fullmatch(key, text) for text in (path, *path.split("/")))
    except re.error as error:
        raise ValueError(f"layers: expected a layer name or a regular expression, got {key!r}: {error}") from error


def check_keys(keys: Iterable[str], paths: Iterable[str], what: str) -> None:
    """Raises ValueError if a key means none of the paths, and lists them."""
    paths = list(paths)
    unknown = [key for key in keys if not any(matches(key, path) for path in paths)]
    if unknown:
        raise ValueError(
            f"{what}: expected names of prunable weights or their layers, or regular expressions that match them; "
            f"got {', '.join(map(repr, unknown))}; this model has: {', '.join(paths)}"
        )
