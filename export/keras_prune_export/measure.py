"""Latency and peak memory of .tflite files on this machine. Needs NumPy and a runtime only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_prune_export import runtime
from keras_prune_export.progress import Progress

_BLOCK_NS = 10_000_000  # a block of invokes lasts about 10 ms: long against the clock, short against other load
_ROUNDS = 40  # of blocks, taken in turn by all files: 0.4 s each
_MAX_INVOKES = 2000  # in a block
_PROBE_INVOKES = 3  # the second one shows memory that is taken late


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one inference with batch 1, in milliseconds.

    Attributes:
        median: half of the inferences take less.
        p10: one in ten takes less.
        p90: nine in ten take less.
        num_invokes: inferences that were timed.
    """

    median: float
    p10: float
    p90: float
    num_invokes: int


def set_shape(interpreter: Any, shape: Sequence[int]) -> None:
    """Gives the interpreter's only input this shape and allocates its tensors.

    Args:
        interpreter: of a file with one input.
        shape: (examples, ...).

    Raises:
        ValueError: the model has several inputs, its batch is fixed at another size, or the shape does not fit.
    """
    details = single_input(interpreter)
    check_shape(details, shape)
    expected = details["shape_signature"][0]
    if expected not in (-1, shape[0]):
        raise ValueError(
            f"expected a model with a free batch dimension, or one of {shape[0]}, got one fixed at {expected}; for "
            f"predictions pass batch_size={expected}; latency needs a file that takes one example"
        )
    if tuple(details["shape"]) != tuple(shape):
        interpreter.resize_tensor_input(details["index"], list(shape))
        interpreter.allocate_tensors()


def check_shape(details: dict[str, Any], shape: Sequence[int]) -> None:
    """Refuses examples that do not fit an input; a dimension that the file leaves free (-1) takes any size.

    Args:
        details: of the input, as `single_input` gives them.
        shape: (examples, ...).

    Raises:
        ValueError: no example, or examples of another shape.
    """
    expected = [None if size == -1 else int(size) for size in details["shape_signature"][1:]]
    fits = len(shape) == len(expected) + 1 and all(
        size in (None, got) for size, got in zip(expected, shape[1:], strict=True)
    )
    if not fits or 0 in shape:
        raise ValueError(
            f"x: expected at least one example of shape {tuple(expected)}, got an array of shape {tuple(shape)}"
        )


def single_input(interpreter: Any) -> dict[str, Any]:
    """The details of the interpreter's only input.

    Raises:
        ValueError: it has several, or one without a batch dimension.
    """
    details = interpreter.get_input_details()
    if len(details) != 1 or not len(details[0]["shape"]):
        shapes = [detail["shape"].tolist() for detail in details]
        raise ValueError(f"expected a model with one input that has a batch dimension, got inputs {shapes}")
    return details[0]


def latencies(models: dict[str, Any], example: np.ndarray, *, num_threads: int = 1) -> dict[str, Latency]:
    """Times batch-1 inference of several files in turn, so that what slows the machine slows all alike.

    Only ``interpreter.invoke()`` is timed. After a warm-up, each round gives every file a block of about 10 ms.

    Args:
        models: name -> path or bytes.
        example: one input without its batch dimension.
        num_threads: of the runtime.

    Returns:
        name -> latency.
    """
    interpreters = {}
    for name, model in models.items():
        interpreter = interpreters[name] = runtime.load_interpreter(model, num_threads=num_threads)
        set_shape(interpreter, (1, *example.shape))
        interpreter.set_tensor(single_input(interpreter)["index"], quantize_input(interpreter, example[None]))
    blocks = {name: _block_size(interpreter) for name, interpreter in interpreters.items()}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in models}
    progress = Progress("latency", _ROUNDS)
    for _ in range(_ROUNDS):
        for name, interpreter in interpreters.items():
            samples[name].append(_time_block(interpreter.invoke, blocks[name]))
        progress.step()
    return {name: _latency(np.concatenate(parts)) for name, parts in samples.items()}


def _block_size(interpreter: Any) -> int:
    """Invokes that last about a block; also the warm-up."""
    _time_block(interpreter.invoke, 3)
    typical = max(1, int(np.median(_time_block(interpreter.invoke, 5))))
    return int(np.clip(_BLOCK_NS // typical, 1, _MAX_INVOKES))


def _time_block(invoke: Any, count: int) -> np.ndarray:
    """Nanoseconds of each of ``count`` calls after one untimed, which brings the weights back into the cache."""
    clock = time.perf_counter_ns
    times = np.empty(count, np.int64)
    invoke()
    for index in range(count):
        start = clock()
        invoke()
        times[index] = clock() - start
    return times


def _latency(nanoseconds: np.ndarray) -> Latency:
    p10, median, p90 = np.percentile(nanoseconds, [10, 50, 90]) / 1e6
    return Latency(float(median), float(p10), float(p90), len(nanoseconds))


def quantize_input(interpreter: Any, x: np.ndarray) -> np.ndarray:
    """Values in the input's own type: a full-integer file takes int8 or uint8."""
    details = single_input(interpreter)
    scale, zero_point = details["quantization"]
    if scale and np.issubdtype(details["dtype"], np.integer):
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(x, details["dtype"])


def peak_memory(model: Any, *, num_threads: int = 1, shape: Sequence[int] | None = None) -> int | None:
    """The most memory that loading and running a file takes, over a process that has the runtime imported.

    A fresh process imports NumPy and the runtime, then loads the file by its path and runs it; the growth of its
    resident memory (pages of the mapped file included) at the peak is the result.

    Args:
        model: path or bytes.
        num_threads: of the runtime.
        shape: of the only input, (examples, ...); None: as the file has it, with 1 for free dimensions.

    Returns:
        Bytes, or None where the system does not tell (not Linux).

    Raises:
        RuntimeError: the process failed.
    """
    if not pathlib.Path("/proc/self/status").is_file():
        return None
    if not isinstance(model, bytes | bytearray | memoryview):
        return _probe(os.fspath(model), num_threads, shape)
    with tempfile.TemporaryDirectory(prefix="keras_prune_") as folder:
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(model)
        return _probe(str(path), num_threads, shape)


def _probe(path: str, num_threads: int, shape: Sequence[int] | None) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "keras_prune_export.measure", path, str(num_threads)]
    command.append(json.dumps(None if shape is None else list(shape)))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"peak_memory: the measuring process failed on {path}:\n{result.stderr.strip()}")
    return int(json.loads(result.stdout.splitlines()[-1])["peak_memory_bytes"])


def _status_bytes(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _main(path: str, num_threads: int, shape: list[int] | None) -> None:
    """The measuring process."""
    runtime.runtime_module()
    with contextlib.suppress(OSError):  # sets VmHWM, the peak, to the present size: importing took more for a moment
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    interpreter = runtime.load_interpreter(path, num_threads=num_threads)
    if shape is not None:
        set_shape(interpreter, shape)
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
    for _ in range(_PROBE_INVOKES):
        interpreter.invoke()
    peak = max(0, _status_bytes("VmHWM") - before)
    print(json.dumps({"peak_memory_bytes": peak}))  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
