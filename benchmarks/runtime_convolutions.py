r"""Dense int8 convolutions beside dense float32 ones in any runtime: whether it computes them fast.

    python benchmarks/runtime_convolutions.py make FOLDER      # with the project
    python benchmarks/runtime_convolutions.py run FOLDER       # with NumPy and ai-edge-litert or tflite-runtime alone

One thread, on one core; the two files of a layer take turns; the smallest of the times that the thread itself used. The
files hold their weights as they are, so that no delegate is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

FORMS = ("dense", "dense_int8")
RUNTIMES = ("ai_edge_litert", "tflite_runtime")
_ROUNDS = 60


def make(folder: pathlib.Path) -> None:
    """Writes the files of three layers with random weights."""
    import single_layer  # noqa: PLC0415 (what runs files needs nothing of the project)
    from single_layer import Layer  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    for layer in (
        Layer(256, 128, 0.1, size=28),
        Layer(128, 128, 0.1, size=14, kernel=3),
        Layer(128, 64, 0.1, size=28, kernel=3, stride=2),
    ):
        made = single_layer.files(layer)
        for form in FORMS:
            (folder / f"{layer.name.replace(' ', '_')}.{form}.tflite").write_bytes(made[form])


def run(folder: pathlib.Path) -> None:
    """Times the files, and prints microseconds and how far the outputs of int8 are from those of float32."""
    name = next(name for name in RUNTIMES if importlib.util.find_spec(name))
    runtime = importlib.import_module(f"{name}.interpreter")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for path in sorted(folder.glob(f"*.{FORMS[0]}.tflite")):
        layer = path.name.removesuffix(f".{FORMS[0]}.tflite")
        loaded = {form: _loaded(runtime, folder / f"{layer}.{form}.tflite") for form in FORMS}
        best = dict.fromkeys(FORMS, float("inf"))
        for _ in range(_ROUNDS):
            for form, interpreter in loaded.items():
                interpreter.invoke()  # not timed: fills the caches
                start = time.thread_time_ns()
                interpreter.invoke()
                best[form] = min(best[form], time.thread_time_ns() - start)
        exact, int8 = (i.get_tensor(i.get_output_details()[0]["index"]) for i in loaded.values())
        error = np.abs(int8 - exact).max() / np.abs(exact).max()
        micros = [f"{form} {ns / 1e3:.0f} us" for form, ns in best.items()]
        share = best["dense_int8"] / best["dense"]
        print(f"{name} {layer}: {', '.join(micros)}: {share:.2f} of the time; error {error:.1%}")


def _loaded(runtime: Any, path: pathlib.Path) -> Any:
    """An interpreter that has its input."""
    interpreter = runtime.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.random.default_rng(1).normal(size=detail["shape"]).astype(np.float32))
    return interpreter


if __name__ == "__main__":
    _, _command, _folder = sys.argv
    {"make": make, "run": run}[_command](pathlib.Path(_folder))
