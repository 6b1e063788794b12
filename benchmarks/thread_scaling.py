r"""Two threads against one, packed and dense: VGG-16's fc6, and convolutions of MobileNet v1 and ResNet.

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
import single_layer
import timing
from absl import app, flags
from single_layer import Layer

_JSON = flags.DEFINE_string("json", "out/bench/thread_scaling.json", "Where the figures go.")
_QUICK = flags.DEFINE_bool("quick", False, "A small stand-in for the layer and few rounds: to try this script.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "For each batch size and state of the caches.", lower_bound=0.1)
_BATCHES = (1, 64)
# 1x1 and 3x3 on large images and small ones, a tenth of the weights kept.
_CONVOLUTIONS = (
    Layer(128, 128, 0.1, size=56),
    Layer(512, 512, 0.1, size=14),
    Layer(64, 64, 0.1, size=56, kernel=3),
    Layer(256, 256, 0.1, size=14, kernel=3),
)
_SMALL = Layer(16, 16, 0.1, size=8)


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


def bench(data: dict[str, bytes], small: dict[str, bytes], *, batch: int, name: str) -> dict[str, Any]:
    """State of the caches -> file -> times with one thread and with two, and the ratio."""
    seconds = 0.2 if _QUICK.value else _SECONDS.value
    samples_by_state = timing.in_states(calls(data, batch), seconds=seconds, small=calls(small, batch))
    result = {}
    for state, samples in samples_by_state.items():
        result[state] = {
            form: timing.rows({"two threads": samples[f"{form} 2"], "one thread": samples[f"{form} 1"]})
            for form in data
        }
        for form, rows in result[state].items():
            timing.show(f"{name}, {state}: {form}", rows)
    return result


def main(argv: list[str]) -> None:
    """Times the layers with one thread and with two."""
    del argv
    result: dict[str, Any] = {
        "machine": timing.machine(),
        "quick": _QUICK.value,
        "goal": 1.7,
        "batches": {},
        "convolutions": {},
    }
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    layers = networks.single("VGG-16", "fc6")
    data, small = files(networks.eighth(layers) if _QUICK.value else layers), files((64, ((64, 0.1),)))
    for batch in _BATCHES:
        result["batches"][str(batch)] = bench(data, small, batch=batch, name=f"batch {batch}")
    for layer in _CONVOLUTIONS[: 1 if _QUICK.value else None]:
        made = single_layer.files(layer), single_layer.files(_SMALL)
        result["convolutions"][layer.name] = bench(*made, batch=layer.batch, name=layer.name)
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
