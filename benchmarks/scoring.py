r"""What scoring units while training costs: a step that gathers against the same model's plain step.

    python benchmarks/scoring.py --out out/bench --json out/bench/scoring.json

The models train on the same random data in turn, some steps each, so that what slows the machine slows all alike. The
masks never change here: only what is gathered inside the step costs.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import timing
from absl import app, flags

from keras_prune import criteria
from keras_prune.graph import dependencies
from keras_prune.unit_statistics import UnitStatistics

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Times that each model trains, taken in turn.", lower_bound=3)
_CRITERIA = flags.DEFINE_list("criteria", ["taylor", "taylor_fo"], "Which to compare.")
_BATCH = 64


def small_cnn() -> keras.Model:
    """Three convolutions and a dense layer on 32 x 32 images."""
    layers = [keras.layers.Conv2D(width, 3, strides=2, activation="relu") for width in (32, 64, 64)]
    head = [keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, *head])


def resnet_20() -> keras.Model:
    """The network of He et al. 2016 for CIFAR-10, with convolutions where the width changes."""
    image = keras.Input((32, 32, 3))
    x = _convolution(image, 16)
    for width in (16, 32, 64):
        for block in range(3):
            strides = 2 if width > 16 and block == 0 else 1
            y = _convolution(_convolution(x, width, strides), width, activation=None)
            x = _convolution(x, width, strides, activation=None) if strides == 2 else x
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def _convolution(x: Any, width: int, strides: int = 1, *, activation: str | None = "relu") -> Any:
    x = keras.layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return x if activation is None else keras.layers.Activation(activation)(x)


def time_steps(make_model: Callable[[], Any], steps: int) -> dict[str, timing.Row]:
    """Milliseconds a step of each case, and the ratio to plain training."""
    rng = np.random.default_rng(_SEED.value)
    x = rng.normal(size=(steps * _BATCH, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, len(x))

    def training(criterion: str) -> Any:
        keras.utils.set_random_seed(_SEED.value)
        model = make_model()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        if criterion != "plain":
            statistics = UnitStatistics(criteria.get(criterion), dependencies(model).free)
            statistics.connect(model)
        return lambda: model.fit(x, y, batch_size=_BATCH, verbose=0, shuffle=False)

    cases = {name: training(name) for name in ("plain", *_CRITERIA.value)}
    return timing.rows(timing.in_turn(cases, rounds=_ROUNDS.value, units=steps))


def main(argv: list[str]) -> None:
    """Times both networks, and prints a table of each."""
    del argv
    result: dict[str, Any] = {}
    for make_model, steps in ((small_cnn, 20), (resnet_20, 4)):
        result[make_model.__name__] = time_steps(make_model, steps)
        timing.show(f"{make_model.__name__}, a step", result[make_model.__name__])
    timing.write(_JSON.value or pathlib.Path(_OUT.value) / "scoring.json", result)


if __name__ == "__main__":
    app.run(main)
