"""Runs the model beside this file on examples and prints its accuracy and its latency.

    python run.py data.npz

``data.npz`` holds x, (examples, ...), and y, (examples,): a whole number for each example, its class. This file is the
``run.py`` of what ``keras-prune bundle`` makes; it runs on Python 3.9 and later with NumPy and one of the runtimes
ai-edge-litert and tflite-runtime, and imports nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import platform
import struct
import sys
import time
from typing import Any

import numpy as np

MODEL, LIBRARY = "model.tflite", "libkeras_prune_delegate.so"
RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


class UsageError(Exception):
    """What the user can put right; its text is all that is shown."""


def runtime_module() -> Any:
    """The installed runtime."""
    problems = []
    for name in RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise UsageError(
        f"expected ai-edge-litert or tflite-runtime, and neither can be imported ({'; '.join(problems)}); "
        "install one with `pip install ai-edge-litert numpy`"
    )


def check_whole(library: pathlib.Path) -> None:
    """A copy that was broken off would end this process: Linux's loader trusts the head of a library.

    By the ELF format (64 bits, little-endian) the head says where the table of sections is, which stands at the end.
    """
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        return  # the loader says what it is
    (begin,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
    wanted = begin + size * count
    if wanted > len(data):
        raise UsageError(f"{library}: expected {wanted} bytes by its head, got {len(data)}; copy the bundle again")


def load(folder: pathlib.Path, num_threads: int) -> Any:
    """The interpreter of the folder's model, with the folder's delegate; its tensors are allocated."""
    runtime = runtime_module()
    try:
        check_whole(folder / LIBRARY)
        delegate = runtime.load_delegate(str(folder / LIBRARY))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder / LIBRARY} cannot be loaded on this machine, {platform.machine()} with "
            f"{' '.join(platform.libc_ver()).strip() or 'an unknown libc'} ({error}); make the bundle for its kind: "
            "keras-prune bundle --target"
        ) from error
    try:
        interpreter = runtime.Interpreter(
            model_path=str(folder / MODEL), experimental_delegates=[delegate], num_threads=num_threads
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{folder / MODEL}: the runtime refused the model: {error}") from error
    return interpreter


def read_examples(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays x and y of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = {"x", "y"} - set(data.files)
            if missing:
                raise UsageError(f"{path}: expected arrays x and y, got {data.files}; np.savez(path, x=x, y=y)")
            x, y = data["x"], data["y"]
    except (OSError, ValueError, AttributeError, EOFError) as error:  # AttributeError: an .npy file
        raise UsageError(f"{path}: expected an .npz file with x and y ({error}); np.savez(path, x=x, y=y)") from error
    if x.ndim == 0 or y.shape != (len(x),) or not len(x) or not np.issubdtype(y.dtype, np.integer):
        raise UsageError(
            f"{path}: expected x with one example or more, and y with a whole number for each, got x of shape "
            f"{x.shape} and y, {y.dtype}, of shape {y.shape}"
        )
    return x, y


def check(interpreter: Any, x: np.ndarray) -> dict[str, Any]:
    """The details of the model's only input, which x fits."""
    inputs = interpreter.get_input_details()
    if len(inputs) != 1:
        raise UsageError(f"expected a model with one input, got {len(inputs)}; feed the interpreter yourself")
    signature = [int(size) for size in inputs[0]["shape_signature"]]
    fits = len(signature) == x.ndim and all(a in (-1, b) for a, b in zip(signature[1:], x.shape[1:]))  # noqa: B905
    if not fits:
        raise UsageError(f"x: expected examples of shape {tuple(signature[1:])}, got {x.shape[1:]}; reshape them")
    return inputs[0]


def quantized(details: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Values in the input's own type: a full-integer file takes int8 or uint8."""
    scale, zero_point = details["quantization"]
    if scale and np.issubdtype(details["dtype"], np.integer):
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(x, details["dtype"])


def feed(interpreter: Any, details: dict[str, Any], x: np.ndarray) -> None:
    """Sets the input, resized to x."""
    if list(interpreter.get_input_details()[0]["shape"]) != list(x.shape):
        interpreter.resize_tensor_input(details["index"], list(x.shape))
        interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], quantized(details, x))


def predict(interpreter: Any, x: np.ndarray, batch: int) -> np.ndarray:
    """The first output of all examples; a file whose batch is fixed gets that many at once, zeros after the last."""
    details = check(interpreter, x)
    fixed = int(details["shape_signature"][0])
    parts = []
    for start in range(0, len(x), fixed if fixed > 0 else batch):
        part = x[start : start + (fixed if fixed > 0 else batch)]
        count = len(part)
        if fixed > count:
            part = np.concatenate([part, np.zeros((fixed - count, *x.shape[1:]), x.dtype)])
        feed(interpreter, details, part)
        interpreter.invoke()
        parts.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[:count])
    return np.concatenate(parts)


def accuracy(outputs: np.ndarray, y: np.ndarray) -> str:
    """How many of the largest outputs are those of the labels."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise UsageError(f"expected a classifier, whose output is (examples, classes), got {outputs.shape}")
    if y.min() < 0 or y.max() >= outputs.shape[1]:
        raise UsageError(f"y: expected classes from 0 to {outputs.shape[1] - 1}, got {y.min()} to {y.max()}")
    right = int((outputs.argmax(axis=1) == y).sum())
    return f"accuracy: {right / len(y):.4f} ({right} of {len(y)})"


def latency(interpreter: Any, example: np.ndarray, seconds: float) -> str:
    """The time of one call with the first example, over many calls in so many seconds (one call at least)."""
    details = check(interpreter, example)
    fixed = max(1, int(details["shape_signature"][0]))
    feed(interpreter, details, np.repeat(example, fixed, axis=0))
    for _ in range(3):
        interpreter.invoke()
    times: list[int] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append(time.perf_counter_ns() - start)
    p10, median, p90 = np.percentile(times, [10, 50, 90]) / 1e6
    return f"latency: {median:.4f} ms (10 % to 90 %: {p10:.4f} to {p90:.4f}), batch {fixed}, {len(times)} calls"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Accuracy and latency of the model beside this file.")
    parser.add_argument("data", type=pathlib.Path, help=".npz with x (examples, ...) and y (examples,), classes")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime and of packed operators (1)")
    parser.add_argument("--batch", type=int, default=64, help="examples at once for the accuracy (64)")
    parser.add_argument("--seconds", type=float, default=1, help="how long to measure the latency (1)")
    parser.add_argument("--outputs", type=pathlib.Path, help="also write the outputs of all examples to this .npy")
    parsed = parser.parse_args(argv)
    if parsed.threads < 1 or parsed.batch < 1:
        parser.error(f"--threads and --batch: expected 1 or more, got {parsed.threads} and {parsed.batch}")
    return parsed


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = arguments(argv)
    try:
        x, y = read_examples(args.data)
        interpreter = load(pathlib.Path(__file__).resolve().parent, args.threads)
        outputs = predict(interpreter, x, args.batch)
        if args.outputs:
            np.save(args.outputs, outputs)
        print(accuracy(outputs, y))  # noqa: T201
        print(latency(interpreter, x[:1], args.seconds))  # noqa: T201
    except UsageError as error:
        print(f"run.py: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
