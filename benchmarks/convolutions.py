r"""1x1 convolutions of MobileNet v1 on packed weights against dense ones, float32 and int8.

    python benchmarks/convolutions.py --json out/bench/convolutions.json

One thread, batch 1, through the real interpreter; the forms of a layer take turns: packed weights with float32 and with
int8 activations, dense float32 under XNNPACK, and dense int8 ("dynamic range"), as the exporter writes it. The layers
are the thirteen of MobileNet v1, 224 x 224 pixels, width 1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861, table
1); weights are random with this density and a codebook of 15 values. A figure is the smallest of the times that the
thread itself used.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping

import numpy as np
import single_layer
import timing
from absl import app, flags
from single_layer import Layer

_JSON = flags.DEFINE_string("json", "out/bench/convolutions.json", "Where the figures go.")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Rounds in which the forms take turns.", lower_bound=3)
_DENSITY = flags.DEFINE_float("density", 0.1, "Of the weights.", lower_bound=0.0, upper_bound=1.0)

# Side of the image, input and output channels; how often.
POINTWISE = {
    (112, 32, 64): 1,
    (56, 64, 128): 1,
    (56, 128, 128): 1,
    (28, 128, 256): 1,
    (28, 256, 256): 1,
    (14, 256, 512): 1,
    (14, 512, 512): 5,
    (7, 512, 1024): 1,
    (7, 1024, 1024): 1,
}


FORMS = ("packed", "packed_int8", "dense", "dense_int8")
RATIOS = {
    "ratio": ("packed", "dense"),
    "int8_ratio": ("packed_int8", "dense"),
    "int8_to_dense_int8": ("packed_int8", "dense_int8"),
}


def bench(layer: Layer) -> dict[str, float]:
    """Microseconds of each form, and the median of each round's ratios."""
    samples = single_layer.times(layer, rounds=_ROUNDS.value)
    best = {f"{form}_us": float(values.min() / 1e3) for form, values in samples.items()}
    medians = {name: float(np.median(samples[dense] / samples[packed])) for name, (packed, dense) in RATIOS.items()}
    return best | {f"median_{name}": value for name, value in medians.items()}


def ratios(times: Mapping[str, float]) -> dict[str, float]:
    """How many times as fast as dense forms packed ones are."""
    return {name: times[f"{dense}_us"] / times[f"{packed}_us"] for name, (packed, dense) in RATIOS.items()}


def text(times: Mapping[str, float]) -> str:
    """Times and ratios in one line."""
    parts = [f"{form} {times[f'{form}_us']:7.0f}" for form in FORMS]
    found = [f"{value:.2f}x {RATIOS[name][1]}" for name, value in ratios(times).items()]
    return f"{', '.join(parts)} us; packed {found[0]}; packed_int8 {', '.join(found[1:])}"


def main(argv: list[str]) -> None:
    """Times the layers, prints a table and writes it."""
    del argv
    timing.pin()
    sums: dict[str, float] = collections.defaultdict(float)
    rows = []
    for (size, channels, rows_of_weights), count in POINTWISE.items():
        layer = Layer(rows_of_weights, channels, _DENSITY.value, size=size)
        row = bench(layer)
        for form in FORMS:
            sums[f"{form}_us"] += count * row[f"{form}_us"]
        rows.append({"layer": layer.name, "count": count, **row, **ratios(row)})
        print(f"{layer.name:36} x{count} {text(row)}", flush=True)
    print(f"{'all thirteen':36}    {text(sums)}")
    facts = {"machine": timing.machine(), "quick": _ROUNDS.value < _ROUNDS.default, "density": _DENSITY.value}
    result = facts | {"layers": rows, **sums, **ratios(sums)}
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
