"""keras_prune: pruning for Keras 3 that makes models smaller and faster on the device.

Every public name is loaded when it is first used, so that a device that only runs packed files needs
neither TensorFlow nor Keras for ``keras_prune.load_interpreter``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Codebook": "keras_prune.quantize",
}

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'keras_prune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
