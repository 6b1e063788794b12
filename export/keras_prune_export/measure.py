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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune_export import model_inputs, runtime
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


def latencies(models: dict[str, Any], example: Any, *, num_threads: int = 1) -> dict[str, Latency]:
    """Times batch-1 inference of several files in turn, so that what slows the machine slows all alike.

    Args:
        models: name -> path or bytes.
        example: one input without its batch dimension; for several inputs a list of them, in the order of the files.
        num_threads: of the runtime.

    Returns:
        name -> latency.
    """
    interpreters = {}
    for name, model in models.items():
        interpreter = interpreters[name] = runtime.load_interpreter(model, num_threads=num_threads)
        model_inputs.feed(interpreter, model_inputs.arrays(interpreter, _batch_of_one(example)))
    return time_in_turn(interpreters, title="latency")


def _batch_of_one(example: Any) -> Any:
    if isinstance(example, list | tuple):
        return [np.asarray(values)[None] for values in example]
    return np.asarray(example)[None]


def time_in_turn(interpreters: Mapping[str, Any], *, title: str, rounds: int | None = None) -> dict[str, Latency]:
    """Times interpreters whose inputs are set; only ``interpreter.invoke()`` is timed.

    After a warm-up, each round gives every interpreter a block of about 10 ms.

    Args:
        interpreters: name -> interpreter.
        title: of the progress that is shown.
        rounds: how many; by default as many as take 0.4 s for each interpreter.

    Returns:
        name -> latency.
    """
    rounds = _ROUNDS if rounds is None else rounds
    blocks = {name: _block_size(interpreter) for name, interpreter in interpreters.items()}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in interpreters}
    progress = Progress(title, rounds)
    for _ in range(rounds):
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


def peak_memory(model: Any, *, num_threads: int = 1, shape: Sequence[Any] | None = None) -> int | None:
    """The most memory that loading and running a file takes, over a process that has the runtime imported.

    A fresh process imports NumPy and the runtime, then loads the file by its path and runs it; the growth of its
    resident memory (pages of the mapped file included) at the peak is the result.

    Args:
        model: path or bytes.
        num_threads: of the runtime.
        shape: of the only input, (examples, ...), or a list of the shapes of all; None: as the file has them, with 1
            for free dimensions.

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


def _probe(path: str, num_threads: int, shape: Sequence[Any] | None) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "keras_prune_export.measure", path, str(num_threads)]
    is_one = shape is not None and all(isinstance(size, int | np.integer) for size in shape)
    shapes = None if shape is None else [[int(size) for size in sizes] for sizes in ([shape] if is_one else shape)]
    command.append(json.dumps(shapes))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"peak_memory: the measuring process failed on {path}:\n{result.stderr.strip()}")
    return int(json.loads(result.stdout.splitlines()[-1])["peak_memory_bytes"])


def _status_bytes(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _main(path: str, num_threads: int, shapes: list[list[int]] | None) -> None:
    """The measuring process."""
    runtime.runtime_module()
    with contextlib.suppress(OSError):  # sets VmHWM, the peak, to the present size: importing took more for a moment
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    interpreter = runtime.load_interpreter(path, num_threads=num_threads)
    if shapes is not None:
        model_inputs.set_shapes(interpreter, shapes)
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
    for _ in range(_PROBE_INVOKES):
        interpreter.invoke()
    peak = max(0, _status_bytes("VmHWM") - before)
    print(json.dumps({"peak_memory_bytes": peak}))  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
