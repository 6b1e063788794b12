r"""Measures what a layer costs on packed weights and dense, and fits the exporter's model to it.

    python benchmarks/kernel_costs.py --isa avx2 --write

One thread; the two forms of a layer take turns; the smallest of their times counts. The model is
``keras_prune_export.kernel_costs``; ``--write`` puts the coefficients of this instruction set into its table, and
``python benchmarks/kernel_choices.py`` says how well it then chooses, on other layers.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.optimize
import single_layer
from absl import app, flags
from single_layer import Layer

from keras_prune_export import kernel_costs
from keras_prune_export.files import write_atomic

_ISA = flags.DEFINE_string("isa", "avx2", "Instruction set of the packed kernels; dense ones take the CPU's best.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds in which the two forms take turns.", lower_bound=3)
_WRITE = flags.DEFINE_bool("write", False, "Write the package's table.")
_JSON = flags.DEFINE_string("json", None, "Also write all times to this file.")

# Of the packed kernels: pixels from which on they compute tiles, and the step in which a tile's end is cut.
_TILE_FROM, _TILE = 4, 16
_DENSITIES = (0.02, 0.1, 0.25, 0.5)


def layers() -> Iterator[Layer]:
    """What is measured: each term of the model is large in some of them."""
    for density in _DENSITIES:
        for rows, cols in ((100, 300), (300, 784), (1000, 1024), (1024, 4096)):
            yield Layer(rows, cols, density)
            yield Layer(rows, cols, density, batch=2)
        for rows, cols in ((100, 300), (300, 784), (1024, 1024)):
            for batch in (4, 16, 64):
                yield Layer(rows, cols, density, batch=batch)
        for size, channels, rows in ((56, 32, 64), (28, 128, 256), (14, 256, 512), (14, 512, 128), (7, 1024, 1024)):
            yield Layer(rows, channels, density, size=size)
        for size, channels, rows in ((28, 32, 64), (14, 128, 128), (7, 256, 512)):
            yield Layer(rows, channels, density, size=size, kernel=3)


def measure(layer: Layer) -> dict[str, float]:
    """Nanoseconds of both forms."""
    samples = single_layer.best_in_turn(single_layer.calls(single_layer.files(layer)), rounds=_ROUNDS.value)
    return {form: float(values.min()) for form, values in samples.items()}


def fit(times: list[tuple[Layer, dict[str, float]]]) -> dict[str, float]:
    """Coefficients, none below 0, with the smallest relative errors of all times.

    A constant for what a call costs is fitted, too, and not kept: it is the interpreter's, and as large for both forms.
    """
    found: dict[str, float] = {}
    regimes: dict[tuple[str, ...], list[tuple[dict[str, float], float]]] = {}
    for layer, both in times:
        for form, ns in both.items():
            counts = kernel_costs.terms(layer.work, form, {"tile": _TILE, "tile_from": _TILE_FROM})
            regimes.setdefault(tuple(counts), []).append((counts, ns))
    for names, cases in regimes.items():
        target = np.array([ns for _, ns in cases])
        matrix = np.array([[1000.0, *(counts[name] for name in names)] for counts, _ in cases]) / target[:, None]
        values, _ = scipy.optimize.nnls(matrix, np.ones(len(target)))
        errors = matrix @ values - 1
        print(f"{', '.join(names)}: constant {values[0]:.2f} us, errors {np.abs(errors).mean():.1%} on average")
        found |= dict(zip(names, map(float, values[1:]), strict=True))
    return found


def main(argv: list[str]) -> None:
    """Measures, fits and writes."""
    del argv
    os.environ["KERAS_PRUNE_ISA"] = _ISA.value
    times = []
    for layer in layers():
        both = measure(layer)
        times.append((layer, both))
        packed, dense = both["packed"], both["dense"]
        print(f"{layer.name:40} packed {packed:12.0f} ns, dense {dense:12.0f} ns: {dense / packed:.2f}x", flush=True)
    coefficients = {name: float(f"{value:.4g}") for name, value in fit(times).items()}
    entry: dict[str, Any] = {"machine": _machine(), "tile": _TILE, "tile_from": _TILE_FROM, **coefficients}
    print(json.dumps(entry, indent=2))
    if _JSON.value:
        write_atomic(_JSON.value, json.dumps([[layer.name, both] for layer, both in times], indent=2).encode())
    if _WRITE.value:
        table = {"isas": {**kernel_costs.table(), _ISA.value: entry}}
        write_atomic(kernel_costs.PATH, (json.dumps(table, indent=2) + "\n").encode())
        print(f"written to {kernel_costs.PATH}")


def _machine() -> str:
    """The CPU's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    app.run(main)
