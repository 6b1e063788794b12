r"""How often the exporter's choice between packed and dense kernels is the faster one, on layers new to its model.

    python benchmarks/kernel_choices.py --json out/bench/kernel_choices.json

With ``--values 256`` the layers have the codebooks of 8 bits that the exporter gives convolutions by default. The forms
of each layer take turns in the real interpreter, one thread, on one core, in two passes over all layers. A choice is
good when it needs at most 10 % more time than the best form that the exporter has for this kind of activations.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import layer_files
import performance_tables
import single_layer
import timing
from absl import app, flags
from single_layer import Layer

from keras_prune_export import kernel_costs, kernel_terms

_JSON = flags.DEFINE_string("json", "out/bench/kernel_choices.json", "Where the figures go.")
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Rounds of a pass, in which the forms take turns.", lower_bound=3)
_PASSES = flags.DEFINE_integer("passes", 2, "Passes over all layers.", lower_bound=1)
_VALUES = flags.DEFINE_integer("values", layer_files.CODEBOOK_SIZE, "Of a codebook.", lower_bound=2, upper_bound=256)
_DENSITIES = (0.03, 0.08, 0.15, 0.3, 0.45, 0.6)


def layers() -> Iterator[Layer]:
    """The grid: other shapes and densities than `benchmarks/kernel_costs.py` measures."""
    for density in _DENSITIES:
        for (rows, cols), batch in itertools.product([(128, 512), (500, 800), (1500, 1200), (2000, 1400)], (1, 8, 32)):
            yield Layer(rows, cols, density, batch=batch)
        for size, channels, rows in ((40, 24, 72), (28, 64, 128), (20, 96, 192), (14, 384, 384), (7, 960, 320)):
            yield Layer(rows, channels, density, size=size)
        for size, channels, rows in ((28, 64, 64), (14, 96, 160), (9, 256, 256)):
            yield Layer(rows, channels, density, size=size, kernel=3)
        for size, channels, rows, kernel in ((28, 256, 192, 1), (28, 48, 96, 3)):
            yield Layer(rows, channels, density, size=size, kernel=kernel, stride=2)


def judge(layer: Layer, samples: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Kind of activations -> what the exporter chooses, and how long that takes beside the best form.

    Args:
        layer: which one.
        samples: nanoseconds of each form.
    """
    found = {}
    for kind in kernel_terms.FORMS:
        forms = kernel_costs.alternatives([layer.work], kind)
        times = {form: samples[form] for form in forms}
        choice = kernel_costs.choice([layer.work], kind)
        worse = times[choice] / min(times.values())
        found[kind] = {"layer": layer.name, "choice": choice, "times_the_best": worse, **times}
    return found


def main(argv: list[str]) -> None:
    """Times the grid and prints each choice and how many were good."""
    del argv
    timing.pin()
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kernel_terms.FORMS}
    every = [dataclasses.replace(layer, values=_VALUES.value) for layer in layers()]
    measured = single_layer.smallest(every, rounds=_ROUNDS.value, passes=_PASSES.value)
    for layer, samples in zip(every, measured, strict=True):
        for kind, row in judge(layer, samples).items():
            rows[kind].append(row)
            packed, *others = kernel_costs.alternatives([layer.work], kind)
            worse = row["times_the_best"]
            verdict = "" if worse <= performance_tables.GOOD else f"{worse:.2f}x the best"
            ratios = ", ".join(f"{row[other] / row[packed]:5.2f}x as {other}" for other in others)
            print(f"{layer.name:36} {packed:11} as fast {ratios}: {row['choice']:11} {verdict}")
    quick = _ROUNDS.value < _ROUNDS.default or _PASSES.value < _PASSES.default
    result: dict[str, Any] = {
        "machine": timing.machine(),
        "quick": quick,
        "values": _VALUES.value,
        "layers": rows,
        "good": {},
    }
    for kind, judged in rows.items():
        result["good"][kind] = sum(row["times_the_best"] <= performance_tables.GOOD for row in judged) / len(judged)
        print(f"{kind}: {result['good'][kind]:.1%} of {len(judged)} choices are within 10 % of the best")
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
