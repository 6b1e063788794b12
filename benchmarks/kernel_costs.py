r"""Measures what a layer costs on packed weights and dense, and fits the exporter's model to it.

    python benchmarks/kernel_costs.py --json costs.json     # for keras_prune.device_costs("costs.json")
    python benchmarks/kernel_costs.py --isa avx2 --write    # for the package

One thread, on one core; the forms of a layer take turns; the smallest of the times that the thread itself used counts,
of several passes over all layers.
The model is ``keras_prune_export.kernel_terms``; ``--write`` puts the coefficients of one instruction set into its
table. ``python benchmarks/kernel_choices.py`` says how well it then chooses, on other layers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.optimize
import single_layer
import timing
from absl import app, flags
from single_layer import Layer

from keras_prune_export import kernel_costs, kernel_terms
from keras_prune_export.files import write_atomic

_ISA = flags.DEFINE_string("isa", None, "Of the packed kernels; by default this CPU's best, which dense ones take.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Rounds of a pass, in which the forms take turns.", lower_bound=3)
_PASSES = flags.DEFINE_integer("passes", 3, "Passes over all layers.", lower_bound=1)
_WRITE = flags.DEFINE_bool("write", False, "Write the package's table.")
_JSON = flags.DEFINE_string("json", None, "Write a file of costs, which also has all times.")
# The delegate's names, best last, and what of the system's names for a CPU's extensions each needs.
_ISAS = {"avx2": "avx2", "avx512": "avx512f", "avx512vbmi": "avx512_vbmi", "neon": "asimd", "neondot": "asimddp"}

# Of the packed kernels: the step in which a tile's end is cut (custom_ops/kernels/tile.h), and pixels from which on
# they compute tiles (dispatch.cc). Where an instruction set has none, what it has instead is measured for them.
_PIXELS = {"tile": 8, "tile_from": 4, "int8_tile_from": 16, "int8_thin_tile_from": 16}
_THIN_TILE_FROM = {"avx2": 8}
_MOST_CALL_US = 5  # the interpreter takes 0.5 to 4 us for a call; a larger constant would be the kernel's own time
_DENSITIES = (0.02, 0.1, 0.25, 0.5)


def layers() -> Iterator[Layer]:
    """What is measured: each term of the model is large in some of them."""
    for density in _DENSITIES:
        for rows, cols in ((100, 300), (300, 784), (1000, 1024), (1024, 4096)):
            yield Layer(rows, cols, density)
            yield Layer(rows, cols, density, batch=2)
        for rows, cols in ((1500, 150), (64, 3000), (3000, 600), (600, 600)):
            yield Layer(rows, cols, density)
        for rows, cols in ((100, 300), (300, 784), (600, 600), (1024, 4096)):
            yield Layer(rows, cols, density, values=256)
        for rows, cols in ((100, 300), (300, 784), (1024, 1024)):
            for batch in (4, 8, 16, 64):
                yield Layer(rows, cols, density, batch=batch)
        for size, channels, rows in ((56, 32, 64), (28, 128, 256), (14, 256, 512), (14, 512, 128), (7, 1024, 1024)):
            yield Layer(rows, channels, density, size=size)
        for size, channels, rows in ((28, 32, 64), (14, 128, 128), (7, 256, 512), (5, 96, 192), (4, 256, 256)):
            yield Layer(rows, channels, density, size=size, kernel=3)
        for size, channels, rows, kernel in ((28, 128, 256, 1), (28, 64, 128, 3), (15, 128, 64, 5)):
            yield Layer(rows, channels, density, size=size, kernel=kernel, stride=2)
    yield from _row_by_row()


def _row_by_row() -> Iterator[Layer]:
    """Layers whose int8 sums float32 does not hold, as all weights are equal; and thin ones of 8 and 12 batch rows."""
    for rows, cols, batch in ((64, 3072, 16), (200, 4096, 32), (256, 2560, 64)):
        yield Layer(rows, cols, 0.5, batch=batch, values=2)
    convolutions = ((7, 256, 64, 0.5), (14, 192, 128, 0.75), (4, 512, 200, 0.3), (3, 128, 128, 0.1))
    for size, channels, rows, density in convolutions:
        yield Layer(rows, channels, density, size=size, kernel=3, values=2)
    for rows, cols, batch in ((300, 784, 8), (1024, 1024, 8), (1024, 4096, 8), (1000, 1024, 12)):
        yield Layer(rows, cols, 0.05, batch=batch)


def fit(times: list[tuple[Layer, dict[str, float]]], pixels: dict[str, int]) -> dict[str, float]:
    """Coefficients, none below 0, with the smallest relative errors of all times.

    A constant for what a call costs is fitted, too, and not kept: it is the interpreter's, and as large for all forms.
    """
    found: dict[str, float] = {}
    regimes: dict[tuple[str, ...], list[tuple[dict[str, float], float]]] = {}
    for layer, of_forms in times:
        for form, ns in of_forms.items():
            counts = kernel_terms.terms(layer.work, form, pixels)
            regimes.setdefault(tuple(counts), []).append((counts, ns))
    for names, cases in regimes.items():
        target = np.array([ns for _, ns in cases])
        matrix = np.array([[1000.0, *(counts[name] for name in names)] for counts, _ in cases]) / target[:, None]
        most = [_MOST_CALL_US, *[np.inf] * len(names)]
        values = scipy.optimize.lsq_linear(matrix, np.ones(len(target)), bounds=(0, most)).x
        errors = matrix @ values - 1
        print(f"{', '.join(names)}: constant {values[0]:.2f} us, errors {np.abs(errors).mean():.1%} on average")
        found |= {name: float(f"{value:.4g}") for name, value in zip(names, values[1:], strict=True)}
    return found


def best_isa() -> str:
    """The instruction set that the delegate takes on this CPU."""
    found = [isa for isa, needed in _ISAS.items() if needed in timing.machine()["extensions"]]
    return found[-1] if found else "scalar"


def main(argv: list[str]) -> None:
    """Measures, fits and writes."""
    del argv
    isa = _ISA.value or best_isa()
    os.environ["KERAS_PRUNE_ISA"] = isa
    timing.pin()
    every = list(layers())
    measured = single_layer.smallest(every, rounds=_ROUNDS.value, passes=_PASSES.value)
    times = list(zip(every, measured, strict=True))
    for layer, of_forms in times:
        print(f"{layer.name:40} {text(of_forms)}")
    pixels = _PIXELS | ({"int8_thin_tile_from": _THIN_TILE_FROM[isa]} if isa in _THIN_TILE_FROM else {})
    entry = {"machine": timing.machine()["cpu"], **pixels, **fit(times, pixels)}
    print(json.dumps(entry, indent=2))
    if _JSON.value:
        named = [[layer.name, of_forms] for layer, of_forms in times]
        _write(_JSON.value, {"isas": {isa: entry}, "nanoseconds": named})
    if _WRITE.value:
        _write(kernel_costs.PATH, {"isas": {**json.loads(kernel_costs.PATH.read_text())["isas"], isa: entry}})


def text(of_forms: dict[str, float]) -> str:
    """The times of one layer, and of dense kernels in those on packed weights."""
    parts = []
    for packed, dense in kernel_terms.FORMS.values():
        ratio = of_forms[dense] / of_forms[packed]
        parts.append(f"{packed} {of_forms[packed]:11.0f} ns, {dense} {of_forms[dense]:11.0f} ns: {ratio:5.2f}x")
    return "   ".join(parts)


def _write(path: str | os.PathLike[str], table: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(table, indent=2) + "\n").encode())
    print(f"written to {path}")


if __name__ == "__main__":
    app.run(main)
