r"""Time of one dense layer against its size, its density and the batch, packed and dense, and where they cross.

    python benchmarks/scaling.py --json out/bench/scaling.json --figures docs/figures
    python benchmarks/scaling.py --json out/bench/scaling.json --figures docs/figures --draw   # the pictures only

One thread, pinned; the four forms of a layer take turns, with the caches in the two states of benchmarks/kernels.py.
Layers are square (a power of two that is not a square has twice as many inputs as outputs). One of size, density and
batch changes, the others stay: 4 M weights, 10 % kept, batch 1.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import crossings
import layer_files
import numpy as np
import timing
from absl import app, flags

from keras_prune import sparse_format

_JSON = flags.DEFINE_string("json", "out/bench/scaling.json", "Where the figures go.")
_FIGURES = flags.DEFINE_string("figures", "out/bench", "The folder of the pictures, scaling_*.png.")
_DRAW = flags.DEFINE_bool("draw", False, "Only make the pictures, from the figures that are there.")
_QUICK = flags.DEFINE_bool("quick", False, "Few points, no large layers and few rounds: to try this script.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "For each point and state of the caches.", lower_bound=0.01)
_CORE = flags.DEFINE_integer("core", -1, "The core to run on; -1: the last one.")

FLOAT, INT8, DENSE, DENSE_INT8 = FORMS = (
    "packed, float activations",
    "packed, int8 activations",
    "dense float32",
    "dense int8",
)
PACKED, DENSES = (FLOAT, INT8), (DENSE, DENSE_INT8)
# What stays where it does not change: 4 M weights of which a tenth is kept, one at a time.
LOG2_WEIGHTS, DENSITY, BATCH = 22, 0.1, 1
SWEEPS: dict[str, tuple[float, ...]] = {
    "size": tuple(2.0**exponent for exponent in range(10, 27, 2)),
    "density": (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.2, 0.3, 0.4, 0.6),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256),
}
_QUICK_SWEEPS: dict[str, tuple[float, ...]] = {
    "size": (2.0**10, 2.0**13, 2.0**16),
    "density": (0.01, 0.1, 0.6),
    "batch": (1, 4, 16),
}
_QUICK_LOG2_WEIGHTS = 16
_SMALL_LOG2_WEIGHTS = 10  # of the layer that brings back the code, where the caches are emptied
LABELS = {"size": "weights of the layer", "density": "weights kept (%)", "batch": "rows of the batch"}


def files(log2_weights: int, density: float) -> dict[str, bytes]:
    """One layer in all forms."""
    rows = 2 ** (log2_weights // 2)
    layers = [layer_files.random_layer((rows, 2**log2_weights // rows), density)]
    packed = [sparse_format.encode(layers[0].codes, layers[0].codebook)]
    return {
        FLOAT: layer_files.packed_file(layers, packed),
        INT8: layer_files.packed_file(layers, packed, activations="int8"),
        DENSE: layer_files.float32_file(layers),
        DENSE_INT8: layer_files.int8_file(layers),
    }


def point(data: dict[str, bytes], batch: int) -> dict[str, dict[str, timing.Row]]:
    """State of the caches -> form -> times."""
    calls, small = (
        {name: layer_files.interpreter_call(file, batch) for name, file in forms.items()}
        for forms in (data, files(_SMALL_LOG2_WEIGHTS, DENSITY))
    )
    samples = timing.in_states(calls, seconds=0.05 if _QUICK.value else _SECONDS.value, small=small)
    return {state: timing.rows(times) for state, times in samples.items()}


def sweep(name: str, values: Sequence[float]) -> list[dict[str, Any]]:
    """The points of one sweep; prints each."""
    log2_weights = _QUICK_LOG2_WEIGHTS if _QUICK.value else LOG2_WEIGHTS
    points: list[dict[str, Any]] = []
    data = files(log2_weights, DENSITY) if name == "batch" else {}
    for value in values:
        if name == "size":
            data = files(round(math.log2(value)), DENSITY)
        elif name == "density":
            data = files(log2_weights, value)
        states = point(data, int(value) if name == "batch" else BATCH)
        points.append({"x": value, "states": states})
        for state, rows in states.items():
            times = "  ".join(f"{form} {1e3 * row['median_ms']:.1f}" for form, row in rows.items())
            print(f"{name} {value:g}, {state}, us: {times}", flush=True)
    return points


def picture(name: str, points: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Time against x in both states of the caches, with the crossings marked."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    canvas = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, state in zip(canvas.subplots(1, len(timing.STATES), sharey=True), timing.STATES, strict=True):
        _panel(axes, name, points, state=state)
    canvas.axes[0].set_ylabel("time of a call (µs), median; band: 10th to 90th percentile")
    canvas.axes[0].yaxis.label.set_fontsize("small")
    canvas.axes[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def _panel(axes: Any, name: str, points: Sequence[dict[str, Any]], *, state: str) -> None:
    scale = 100 if name == "density" else 1
    xs = [scale * point["x"] for point in points]
    styles = {FLOAT: ("tab:blue", "-o"), INT8: ("tab:orange", "-s"), DENSE: ("0.35", "--v"), DENSE_INT8: ("0.6", "--^")}
    for form, (color, style) in styles.items():
        rows = [point["states"][state][form] for point in points]
        low, middle, high = ([1e3 * row[key] for row in rows] for key in ("p10_ms", "median_ms", "p90_ms"))
        axes.plot(xs, middle, style, color=color, markersize=4, linewidth=1.3, label=form)
        axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel=LABELS[name])
    for crossing in crossings.find(points, state, packed=PACKED, dense=DENSES):
        y = _between([point["x"] for point in points], [p["states"][state] for p in points], crossing)
        axes.plot([scale * crossing["x"]], [y], "x", color="tab:red", markersize=9, markeredgewidth=2, zorder=5)
    axes.set_xscale("log", base=10 if name == "density" else 2)
    if name != "size":
        axes.set_xticks(xs, [f"{x:g}" for x in xs], fontsize="small")
        axes.minorticks_off()
    axes.set_title({"repeated": "repeated: weights in the caches, if they fit", "cold": "cold: caches empty"}[state])
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)


def _between(xs: Sequence[float], rows: Sequence[dict[str, timing.Row]], crossing: dict[str, Any]) -> float:
    """Microseconds of the packed form where it crosses."""
    logs = np.log([1e3 * row[crossing["packed"]]["median_ms"] for row in rows])
    return float(np.exp(np.interp(math.log(crossing["x"]), np.log(xs), logs)))


def measure() -> dict[str, Any]:
    """All sweeps and their crossings."""
    machine = timing.machine()
    result: dict[str, Any] = {"machine": machine, "core": timing.pin(_CORE.value), "quick": _QUICK.value}
    result["fixed"] = {"weights": 2**LOG2_WEIGHTS, "density": DENSITY, "batch": BATCH}
    result["sweeps"] = {}
    for name, values in (_QUICK_SWEEPS if _QUICK.value else SWEEPS).items():
        points = sweep(name, values)
        found = {state: crossings.find(points, state, packed=PACKED, dense=DENSES) for state in timing.STATES}
        result["sweeps"][name] = {"points": points, "crossings": found}
        timing.write(_JSON.value, result)
    return result


def main(argv: list[str]) -> None:
    """Measures, unless only the pictures are wanted, and draws."""
    del argv
    result = json.loads(pathlib.Path(_JSON.value).read_text()) if _DRAW.value else measure()
    for name, figures in result["sweeps"].items():
        picture(name, figures["points"], pathlib.Path(_FIGURES.value) / f"scaling_{name}.png")


if __name__ == "__main__":
    app.run(main)
