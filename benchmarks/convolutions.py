r"""1x1 convolutions of MobileNet v1 on packed weights against dense float32 under XNNPACK.

    python benchmarks/convolutions.py --json out/bench/convolutions.json

One thread, batch 1, through the real interpreter; the two forms of a layer take turns. The layers are the thirteen of
MobileNet v1, 224 x 224 pixels, width 1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1); weights are
random with this density and a codebook of 15 values. A figure is the smallest of the times that the thread itself used.
"""

from __future__ import annotations

import collections
import pathlib
import platform

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


def bench(layer: Layer) -> dict[str, float]:
    """Microseconds of both forms, and the median of each round's ratio."""
    samples = single_layer.times(layer, rounds=_ROUNDS.value)
    return {
        "packed_us": float(samples["packed"].min() / 1e3),
        "dense_us": float(samples["dense"].min() / 1e3),
        "median_ratio": float(np.median(samples["dense"] / samples["packed"])),
    }


def main(argv: list[str]) -> None:
    """Times the layers, prints a table and writes it."""
    del argv
    sums: dict[str, float] = collections.defaultdict(float)
    rows = []
    for (size, channels, rows_of_weights), count in POINTWISE.items():
        layer = Layer(rows_of_weights, channels, _DENSITY.value, size=size)
        row = bench(layer)
        for form in ("packed_us", "dense_us"):
            sums[form] += count * row[form]
        rows.append({"layer": layer.name, "count": count, **row, "ratio": row["dense_us"] / row["packed_us"]})
        last = rows[-1]
        print(
            f"{layer.name:44} x{count} packed {row['packed_us']:9.1f} us, dense {row['dense_us']:9.1f} us: "
            f"{last['ratio']:.2f}x (median {row['median_ratio']:.2f}x)",
            flush=True,
        )
    ratio = sums["dense_us"] / sums["packed_us"]
    print(f"all thirteen: packed {sums['packed_us']:.0f} us, dense {sums['dense_us']:.0f} us: {ratio:.2f}x")
    machine = platform.processor() or platform.machine()
    result = {"machine": machine, "density": _DENSITY.value, "layers": rows, **sums, "ratio": ratio}
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
