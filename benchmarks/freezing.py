r"""What frozen layers save: the time of a training step with some layers frozen against the same model's full step.

    python benchmarks/freezing.py --out out/bench --json out/bench/freezing.json

The cases train in turn, an epoch each, so that what slows the machine slows all alike. Frozen layers still compute
their outputs; what is saved is their part of the way back: for layers at the beginning of the model all of it, for
those behind trained ones the gradients of their weights only.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time

import keras
import numpy as np
from absl import app, flags

import keras_prune
from keras_prune_export.files import write_atomic

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Epochs of each case, taken in turn.", lower_bound=3)
_STEPS = 60
_BATCH = 64
CASES: dict[str, str | None] = {"nothing frozen": None, "convolutions frozen": "convolutions", "dense frozen": "dense"}


def lenet5() -> keras.Model:
    """LeNet-5 in the Caffe variant that Han et al. 2015 prune, pruned to his 8 %."""
    layers = [
        keras.layers.Conv2D(20, 5, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(50, 5, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(500, "relu"),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((28, 28, 1)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return keras_prune.prune(model, 0.92)


def bench() -> dict[str, dict[str, float]]:
    """Milliseconds a step of each case, and the ratio to the full step of the same round."""
    rng = np.random.default_rng(_SEED.value)
    x = rng.normal(size=(_STEPS * _BATCH, 28, 28, 1)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    models = {}
    samples: dict[str, list[float]] = {name: [] for name in CASES}
    with contextlib.ExitStack() as stack:
        for name, layers in CASES.items():
            keras.utils.set_random_seed(_SEED.value)
            models[name] = lenet5()
            if layers is not None:  # for the whole run: each model is compiled once
                stack.enter_context(keras_prune.frozen(models[name], layers))
        for round_ in range(_ROUNDS.value + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model.fit(x, y, batch_size=_BATCH, epochs=1, verbose=0, shuffle=False)
                if round_ > 0:  # the first one compiles
                    samples[name].append((time.perf_counter() - start) * 1e3 / _STEPS)
    full = np.array(samples["nothing frozen"])
    return {
        name: {
            "median_ms": float(np.median(values)),
            "p10_ms": float(np.percentile(values, 10)),
            "p90_ms": float(np.percentile(values, 90)),
            "ratio": float(np.median(np.array(values) / full)),
        }
        for name, values in samples.items()
    }


def main(argv: list[str]) -> None:
    """Times the cases and prints a table."""
    del argv
    figures = bench()
    print(f"{'LeNet-5, 92 % pruned':22} {'median ms/step':>14} {'p10':>8} {'p90':>8} {'x full':>8}")
    for name, row in figures.items():
        times = f"{row['median_ms']:14.3f} {row['p10_ms']:8.3f} {row['p90_ms']:8.3f}"
        print(f"  {name:20} {times} {row['ratio']:8.3f}", flush=True)
    target = pathlib.Path(_JSON.value or pathlib.Path(_OUT.value) / "freezing.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(figures, indent=2).encode())
    print(f"written to {target}")


if __name__ == "__main__":
    app.run(main)
