r"""What pruning costs while training: a step with masks against the same model's plain step, and a mask update.

    python benchmarks/training.py --out out/bench --json out/bench/training.json

The models train on the same data in turn, an epoch each, so that what slows the machine slows all alike. With a static
mask only the enforcement inside the step costs; with an update every step the masks are made anew each time, the worst
case. A mask update of one large layer (weights to scores, selection, the mask's assignment, zeros in the weights) is
compared with the sort of the same weights alone, which is how TFMOT finds its threshold.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import timing
from absl import app, flags

import keras_prune
from keras_prune import masks

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of data and weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Epochs of each model, taken in turn.", lower_bound=3)
_WEIGHTS = flags.DEFINE_integer("weights", 25_000_000, "Weights of the layer whose mask is updated.", lower_bound=1000)
_STEPS = 100
_BATCH = 128
_UPDATES = 7
_COLUMNS = 1000


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


def time_steps(make_model: Any) -> dict[str, timing.Row]:
    """Milliseconds a step of each case, and the ratio to plain training."""
    rng = np.random.default_rng(_SEED.value)
    shape = make_model().input_shape[1:]
    x = rng.normal(size=(_STEPS * _BATCH, *shape)).astype(np.float32)
    y = rng.integers(0, 10, len(x))

    def epoch(make_callbacks: Any) -> Any:
        keras.utils.set_random_seed(_SEED.value)
        model, callbacks = make_model(), make_callbacks()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return lambda: model.fit(x, y, batch_size=_BATCH, verbose=0, shuffle=False, callbacks=callbacks)

    epochs = {name: epoch(make_callbacks) for name, make_callbacks in CASES.items()}
    return timing.rows(timing.in_turn(epochs, rounds=_ROUNDS.value, units=_STEPS))


def time_mask_update() -> tuple[dict[str, timing.Row], float]:
    """Milliseconds of a mask update and of ``tf.sort`` of the same weights; and the masks' bytes a weight."""
    rng = np.random.default_rng(_SEED.value)
    shape = (_WEIGHTS.value // _COLUMNS, _COLUMNS)
    kernel = keras.Variable(rng.standard_normal(shape, np.float32), name="kernel")
    weights = tf.constant(kernel.numpy())
    masks.attach({"kernel": kernel})
    mask = kernel.constraint.mask

    def update() -> None:
        kernel.assign(weights)  # as training would have left them; part of what is timed
        masks.Recipe().update({"kernel": kernel}, 0.9)

    def sort() -> None:
        tf.sort(tf.abs(tf.reshape(weights, [-1]))).numpy()

    samples = timing.in_turn({"mask update": update, "tf.sort": sort}, rounds=_UPDATES)
    return timing.rows(samples), mask.numpy().nbytes / int(np.prod(mask.shape))


def main(argv: list[str]) -> None:
    """Times both networks and the update, and prints a table of each."""
    del argv
    result: dict[str, Any] = {}
    for make_model in (lenet_300_100, small_cnn):
        result[make_model.__name__] = time_steps(make_model)
        timing.show(f"{make_model.__name__}, a step", result[make_model.__name__])
    result["mask_update"], result["mask_bytes_per_weight"] = time_mask_update()
    timing.show(f"{_WEIGHTS.value:,} weights", result["mask_update"])
    print(f"masks: {result['mask_bytes_per_weight']:g} byte a weight")
    timing.write(_JSON.value or pathlib.Path(_OUT.value) / "training.json", result)


if __name__ == "__main__":
    app.run(main)
