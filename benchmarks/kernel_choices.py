r"""How often the exporter's choice between packed and dense kernels is the faster one, on layers new to its model.

    python benchmarks/kernel_choices.py --json out/bench/kernel_choices.json

Both forms of each layer take turns in the real interpreter, one thread. A choice is good when it needs at most 10 %
more time than the better form.
"""

from __future__ import annotations

import itertools
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import single_layer
import timing
from absl import app, flags
from single_layer import Layer

from keras_prune_export import kernel_costs

_JSON = flags.DEFINE_string("json", "out/bench/kernel_choices.json", "Where the figures go.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Rounds in which the forms take turns.", lower_bound=3)
_GOOD = 1.1
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


def main(argv: list[str]) -> None:
    """Times the grid and prints each choice and how many were good."""
    del argv
    rows: list[dict[str, Any]] = []
    for layer in layers():
        samples = single_layer.best_in_turn(single_layer.calls(single_layer.files(layer)), rounds=_ROUNDS.value)
        times = {form: float(values.min()) for form, values in samples.items()}
        choice = "packed" if kernel_costs.packed_pays([layer.work]) else "dense"
        worse = times[choice] / min(times.values())
        rows.append({"layer": layer.name, "choice": choice, "times_the_best": worse, **times})
        faster = times["dense"] / times["packed"]
        verdict = "" if worse <= _GOOD else f"{worse:.2f}x the best"
        print(f"{layer.name:44} packed is {faster:5.2f}x as fast: {choice:6} {verdict}", flush=True)
    good = sum(row["times_the_best"] <= _GOOD for row in rows) / len(rows)
    print(f"{good:.1%} of {len(rows)} choices are within 10 % of the best")
    result = {"machine": platform.processor() or platform.machine(), "layers": rows, "good": good}
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
