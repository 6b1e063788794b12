r"""What frozen layers save: the time of a training step with some layers frozen against the same model's full step.

    python benchmarks/freezing.py --out out/bench --json out/bench/freezing.json

The cases train in turn, an epoch each, so that what slows the machine slows all alike. Frozen layers still compute
their outputs; what is saved is their part of the way back: for layers at the beginning of the model all of it, for
those behind trained ones the gradients of their weights only.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib

import keras
import numpy as np
import timing
from absl import app, flags

import keras_prune

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


def bench() -> dict[str, timing.Row]:
    """Milliseconds a step of each case, and the ratio to the full step of the same round."""
    rng = np.random.default_rng(_SEED.value)
    x = rng.normal(size=(_STEPS * _BATCH, 28, 28, 1)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    epochs = {}
    with contextlib.ExitStack() as stack:
        for name, layers in CASES.items():
            keras.utils.set_random_seed(_SEED.value)
            model = lenet5()
            if layers is not None:  # for the whole run: each model is compiled once
                stack.enter_context(keras_prune.frozen(model, layers))
            epochs[name] = functools.partial(model.fit, x, y, batch_size=_BATCH, verbose=0, shuffle=False)
        return timing.rows(timing.in_turn(epochs, rounds=_ROUNDS.value, units=_STEPS))


def main(argv: list[str]) -> None:
    """Times the cases and prints a table."""
    del argv
    figures = bench()
    timing.show("LeNet-5, 92 % pruned", figures)
    timing.write(_JSON.value or pathlib.Path(_OUT.value) / "freezing.json", figures)


if __name__ == "__main__":
    app.run(main)
