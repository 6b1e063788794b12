r"""What pruning costs while training: the time of a step with masks against the same model's plain step.

    python benchmarks/training.py --out out/bench --json out/bench/training.json

The models train on the same data in turn, an epoch each, so that what slows the machine slows all alike. With a static
mask only the in-graph enforcement costs; with an update every step the masks are made anew each time, the worst case.
"""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import keras
import numpy as np
from absl import app, flags

import keras_prune
from keras_prune_export.files import write_atomic

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Epochs of each model, taken in turn.", lower_bound=3)
_STEPS = 200
_BATCH = 128


def lenet_300_100() -> keras.Model:
    """The network of Han et al. 2015."""
    layers = [keras.layers.Dense(300, "relu"), keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((784,)), *layers])


def small_cnn() -> keras.Model:
    """Two convolutions and a dense layer on 28 x 28 images."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


CASES: dict[str, Any] = {
    "plain": lambda: [],
    "static mask": lambda: [keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.9, begin_step=0, end_step=0))],
    "update every step": lambda: [keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.9, frequency=1))],
}


def bench(make_model: Any) -> dict[str, dict[str, float]]:
    """Milliseconds a step of each case, and the ratio to plain training."""
    rng = np.random.default_rng(_SEED.value)
    models, callbacks = {}, {}
    for name, make_callbacks in CASES.items():
        keras.utils.set_random_seed(_SEED.value)
        models[name], callbacks[name] = make_model(), make_callbacks()
        models[name].compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = rng.normal(size=(_STEPS * _BATCH, *models["plain"].input_shape[1:])).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    samples: dict[str, list[float]] = {name: [] for name in CASES}
    for round_ in range(_ROUNDS.value + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=_BATCH, epochs=1, verbose=0, shuffle=False, callbacks=callbacks[name])
            if round_ > 0:  # the first one compiles
                samples[name].append((time.perf_counter() - start) * 1e3 / _STEPS)
    plain = np.array(samples["plain"])
    return {
        name: {
            "median_ms": float(np.median(values)),
            "p10_ms": float(np.percentile(values, 10)),
            "p90_ms": float(np.percentile(values, 90)),
            "ratio": float(np.median(np.array(values) / plain)),
        }
        for name, values in samples.items()
    }


def main(argv: list[str]) -> None:
    """Times both networks and prints a table of each."""
    del argv
    result = {}
    for make_model in (lenet_300_100, small_cnn):
        figures = result[make_model.__name__] = bench(make_model)
        print(f"{make_model.__name__:20} {'median ms/step':>14} {'p10':>8} {'p90':>8} {'x plain':>8}")
        for name, row in figures.items():
            times = f"{row['median_ms']:14.3f} {row['p10_ms']:8.3f} {row['p90_ms']:8.3f}"
            print(f"  {name:18} {times} {row['ratio']:8.3f}", flush=True)
    target = pathlib.Path(_JSON.value or pathlib.Path(_OUT.value) / "training.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(result, indent=2).encode())
    print(f"written to {target}")


if __name__ == "__main__":
    app.run(main)
