"""The device runtime with our delegate. Needs NumPy and a runtime; neither TensorFlow nor Keras."""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any

from keras_prune import native
from keras_prune_export import checks, files

# The first that can be imported is used: LiteRT, its predecessor on older devices, and TensorFlow's own copy.
_RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite")


def runtime_module() -> Any:
    """The installed runtime: a module with ``Interpreter`` and ``load_delegate``.

    Raises:
        ImportError: none is installed.
    """
    problems = []
    for name in _RUNTIMES:
        try:
            if name == "tensorflow.lite":  # not a module that can be imported by its name
                return importlib.import_module("tensorflow").lite
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise ImportError(
        "load_interpreter: expected one of the runtimes ai-edge-litert, tflite-runtime, tensorflow, and none can be "
        f"imported ({'; '.join(problems)}); install one with `pip install ai-edge-litert`"
    )


def load_interpreter(model: str | os.PathLike[str] | bytes, *, num_threads: int = 1, **options: Any) -> Any:
    """Loads a .tflite file, packed or not, into the ordinary LiteRT interpreter with our delegate.

    Its tensors are allocated; calling ``allocate_tensors()`` again does no harm, and is needed after
    ``resize_tensor_input``.

    Args:
        model: path or bytes of a .tflite file.
        num_threads: threads of the runtime's own kernels and of packed operators, >= 1; the latter give the same
            results for any number, and use no more than there are CPUs.
        **options: more arguments of the runtime's ``Interpreter``; delegates in ``experimental_delegates`` come
            after ours.

    Returns:
        The ``Interpreter``.

    Raises:
        FileNotFoundError: no such file, or the delegate was not built.
        ValueError: not a .tflite file, ``num_threads`` below 1, or the runtime refused the model.
        ImportError: no runtime is installed.

    Example:
        >>> interpreter = keras_prune.load_interpreter("model.tflite")  # doctest: +SKIP
    """
    num_threads = checks.positive(num_threads, "load_interpreter: expected num_threads")
    source = _source(model)
    library = native.delegate_path()
    runtime = runtime_module()
    load_delegate = getattr(runtime, "load_delegate", None) or runtime.experimental.load_delegate
    try:
        ctypes.CDLL(str(library))  # the runtimes' own function leaves a half-made object behind where this fails
        delegate = load_delegate(str(library))
    except OSError as error:
        raise OSError(
            f"load_interpreter: the delegate {library} cannot be loaded ({error}); "
            "install keras_prune for this platform"
        ) from error
    delegates = [delegate, *(options.pop("experimental_delegates", None) or ())]
    try:
        interpreter = runtime.Interpreter(
            **source, experimental_delegates=delegates, num_threads=num_threads, **options
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"load_interpreter: the runtime refused the model: {error}") from error
    return interpreter


def _source(model: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """The interpreter's argument: a path stays a path, so that the runtime maps the file instead of copying it."""
    data = files.read_tflite(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return {"model_content": data}
    return {"model_path": os.fspath(model)}
