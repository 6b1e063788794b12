"""Where the native libraries are: the delegate and the TensorFlow op."""

from __future__ import annotations

import pathlib

_FOLDER = pathlib.Path(__file__).resolve().parent / "_native"


def _library(name: str, purpose: str) -> pathlib.Path:
    path = _FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{purpose}: expected the native library at {path}, and it is not there; install keras_prune from a wheel "
            "for this platform, or build it in a checkout with `pip install -e .` (it needs a C++17 compiler)"
        )
    return path


def delegate_path() -> pathlib.Path:
    """The TFLite / LiteRT delegate that runs packed operators; raises FileNotFoundError when it was not built."""
    return _library("libkeras_prune_delegate.so", "keras_prune delegate")


def op_path() -> pathlib.Path:
    """The TensorFlow op library; raises FileNotFoundError when it was not built."""
    return _library("libkeras_prune_tf_op.so", "keras_prune TensorFlow op")
