"""The native library of TensorFlow ops, loaded once for the whole process."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import tensorflow as tf

from keras_prune import native

_lock = threading.Lock()
_library: Any = None


def load(function: str) -> Any:
    """The functions of the ops.

    Args:
        function: the Python name of the op that is needed, for example ``keras_prune_mask``.

    Returns:
        A module that has it. Where ``tf.load_op_library`` loaded a copy of the library before, the ops of that copy.

    Raises:
        FileNotFoundError: the native library was not built.
        RuntimeError: this TensorFlow lacks a function that the op needs.
    """
    global _library  # noqa: PLW0603 - loaded at the first use, for the whole process
    with _lock:
        if _library is None:
            path = str(native.op_path())
            _library = tf.load_op_library(path)
            # Kernels are not told how many threads TensorFlow was given; 0: it was not said.
            ctypes.CDLL(path).KerasPruneTfSetNumThreads(tf.config.threading.get_intra_op_parallelism_threads())
    return _library if hasattr(_library, function) else _loaded_before(function)


def _loaded_before(function: str) -> Any:
    """The functions of the ops where this process has them from a copy of the library at another path."""
    for module in list(sys.modules.values()):
        if function in getattr(module, "__dict__", {}):  # where tf.load_op_library keeps what it makes
            return module
    raise RuntimeError(
        f"keras_prune: expected TensorFlow 2.16 or newer, which registers {function}, got {tf.__version__}, which did "
        "not (the reason is on stderr): install another tensorflow; or this process's C++ code registered the op, "
        "without Python functions: call keras_prune.ops.load() before it does"
    )
