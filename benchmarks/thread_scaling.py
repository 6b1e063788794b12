r"""Two threads against one on VGG-16's fc6, packed and dense.

    python benchmarks/thread_scaling.py --json out/bench/thread_scaling.json

The interpreter's num_threads is 1 or 2; all take turns, on the same two cores. The states of the caches are those of
benchmarks/kernels.py.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import layer_files
import networks
import timing
from absl import app, flags

_JSON = flags.DEFINE_string("json", "out/bench/thread_scaling.json", "Where the figures go.")
_QUICK = flags.DEFINE_bool("quick", False, "A small stand-in for the layer and few rounds: to try this script.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "For each batch size and state of the caches.", lower_bound=0.1)
_BATCHES = (1, 64)


def files(layers: networks.Layers) -> dict[str, bytes]:
    """A network packed and dense."""
    made = layer_files.random_network(*layers)
    packed = [layer_files.packed_bytes(layer) for layer in made]
    return {
        "packed, float activations": layer_files.packed_file(made, packed),
        "packed, int8 activations": layer_files.packed_file(made, packed, activations="int8"),
        "dense float32": layer_files.float32_file(made),
        "dense int8": layer_files.int8_file(made),
    }


def calls(data: dict[str, bytes], batch: int) -> dict[str, Callable[[], Any]]:
    """Each file with one thread and with two."""
    return {
        f"{name} {count}": layer_files.interpreter_call(file, batch, num_threads=count)
        for name, file in data.items()
        for count in (1, 2)
    }


def bench(data: dict[str, bytes], small: dict[str, bytes], batch: int) -> dict[str, Any]:
    """State of the caches -> file -> times with one thread and with two, and the ratio."""
    seconds = 0.2 if _QUICK.value else _SECONDS.value
    samples_by_state = timing.in_states(calls(data, batch), seconds=seconds, small=calls(small, batch))
    result = {}
    for state, samples in samples_by_state.items():
        result[state] = {
            name: timing.rows({"two threads": samples[f"{name} 2"], "one thread": samples[f"{name} 1"]})
            for name in data
        }
        for name, rows in result[state].items():
            timing.show(f"batch {batch}, {state}: {name}", rows)
    return result


def main(argv: list[str]) -> None:
    """Times the layer with one thread and with two."""
    del argv
    result: dict[str, Any] = {"machine": timing.machine(), "quick": _QUICK.value, "goal": 1.7, "batches": {}}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    layers = networks.single("VGG-16", "fc6")
    data, small = files(networks.eighth(layers) if _QUICK.value else layers), files((64, ((64, 0.1),)))
    for batch in _BATCHES:
        result["batches"][str(batch)] = bench(data, small, batch)
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
