r"""Latency of packed layers on the device runtime against what a user would pick instead.

    python benchmarks/latency.py --out out/bench --json out/bench/latency.json

One thread, batch 1. Every model's candidates take turns in one run, so that what slows the machine slows all alike; the
figures to read are the ratios. Weights are random at the papers' densities (Han et al. 2015 and 2016), with a codebook
of 15 values; `tf.sparse` and SciPy's CSR get the same weights as float32.
"""

from __future__ import annotations

import json
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from absl import app, flags

import keras_prune
import keras_prune_export as kpe
from keras_prune_export.files import write_atomic

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights.")
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Rounds in which the candidates take turns.", lower_bound=3)
_MODELS = flags.DEFINE_list("models", ["lenet_300_100", "alexnet_fc6", "vgg16_fc6"], "Which of the networks to time.")

# (inputs, [(units, density), ...]); densities from Han et al. 2015, tables 3 to 5.
NETWORKS = {
    "lenet_300_100": (784, [(300, 0.08), (100, 0.09), (10, 0.26)]),
    "alexnet_fc6": (9216, [(4096, 0.09)]),
    "vgg16_fc6": (25088, [(4096, 0.04)]),
}
_BLOCK_SECONDS = 0.02


def make_model(name: str) -> keras.Model:
    """A network whose weights are pruned at random to the paper's densities and quantized."""
    num_inputs, layers = NETWORKS[name]
    rng = np.random.default_rng(_SEED.value)
    model = keras.Sequential([keras.Input((num_inputs,))])
    for index, (units, density) in enumerate(layers):
        layer = keras.layers.Dense(units, "relu" if index < len(layers) - 1 else None, bias_initializer="normal")
        model.add(layer)
        values = rng.choice(np.linspace(-0.1, 0.1, 15, dtype=np.float32)[rng.permutation(15)], layer.kernel.shape)
        kept = rng.random(layer.kernel.shape, dtype=np.float32) < density
        layer.kernel.assign(values * kept)
    return model


def interpreter_call(data: bytes, x: np.ndarray) -> Callable[[], Any]:
    """`invoke` of an interpreter that has its input already."""
    interpreter = keras_prune.load_interpreter(data, num_threads=1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    return interpreter.invoke


def csr_call(model: keras.Model, x: np.ndarray) -> Callable[[], Any]:
    """SciPy's CSR matrix-vector product, bias and ReLU."""
    layers = [(scipy.sparse.csr_matrix(np.asarray(w).T), np.asarray(b)) for w, b in _weights(model)]

    def call() -> np.ndarray:
        y = x[0]
        for index, (matrix, bias) in enumerate(layers):
            y = matrix @ y + bias
            if index < len(layers) - 1:
                y = np.maximum(y, 0)
        return y

    return call


def tf_sparse_call(model: keras.Model, x: np.ndarray) -> Callable[[], Any]:
    """`tf.sparse.sparse_dense_matmul` in a `tf.function`."""
    layers = [(tf.sparse.from_dense(np.asarray(w).T), tf.constant(np.asarray(b)[:, None])) for w, b in _weights(model)]
    column = tf.constant(x.T)

    @tf.function
    def call() -> tf.Tensor:
        y = column
        for index, (matrix, bias) in enumerate(layers):
            y = tf.sparse.sparse_dense_matmul(matrix, y) + bias
            if index < len(layers) - 1:
                y = tf.nn.relu(y)
        return y

    return call


def _weights(model: keras.Model) -> list[tuple[Any, Any]]:
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in model.layers]


def time_in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Median, p10 and p90 in microseconds of each call; they take turns in blocks of about 20 ms."""
    blocks = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        blocks[name] = int(np.clip(_BLOCK_SECONDS / (time.perf_counter() - start), 1, 2000))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # not timed: brings the weights back into the cache
            for _ in range(blocks[name]):
                start_ns = time.perf_counter_ns()
                call()
                samples[name].append((time.perf_counter_ns() - start_ns) / 1e3)
    quantiles = {name: np.percentile(values, [50, 10, 90]) for name, values in samples.items()}
    return {
        name: dict(zip(("median_us", "p10_us", "p90_us"), map(float, q), strict=True)) for name, q in quantiles.items()
    }


def bench(name: str) -> dict[str, Any]:
    """All candidates of one network."""
    model = make_model(name)
    x = np.random.default_rng(1).normal(size=(1, model.input_shape[1])).astype(np.float32)
    packed = keras_prune.export_tflite(model)
    float32, int8 = kpe.convert(model), kpe.convert(model, optimize="dynamic_range")
    calls = {
        "packed": interpreter_call(packed, x),
        "float32": interpreter_call(float32, x),
        "int8": interpreter_call(int8, x),
        "scipy CSR": csr_call(model, x),
        "tf.sparse": tf_sparse_call(model, x),
    }
    times = time_in_turn(calls, _ROUNDS.value)
    sizes = {"packed": len(packed), "float32": len(float32), "int8": len(int8)}
    base = times["packed"]["median_us"]
    return {
        key: {**value, "slower_than_packed": value["median_us"] / base, "num_bytes": sizes.get(key)}
        for key, value in times.items()
    }


def table(name: str, figures: dict[str, Any]) -> str:
    """The figures of one network as text."""
    lines = [f"{name:16} {'median us':>12} {'p10':>10} {'p90':>10} {'x packed':>9} {'bytes':>12}"]
    for key, row in figures.items():
        size = "" if row["num_bytes"] is None else f"{row['num_bytes']:,}"
        times = f"{row['median_us']:12.2f} {row['p10_us']:10.2f} {row['p90_us']:10.2f}"
        lines.append(f"  {key:14} {times} {row['slower_than_packed']:9.2f} {size:>12}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Times the networks and prints a table of each."""
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(1)
    networks: dict[str, dict[str, Any]] = {}
    for name in _MODELS.value:
        networks[name] = bench(name)
        print(table(name, networks[name]), flush=True)
    result = {"machine": platform.processor() or platform.machine(), "networks": networks}
    target = pathlib.Path(_JSON.value or pathlib.Path(_OUT.value) / "latency.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(result, indent=2).encode())
    print(f"written to {target}")


if __name__ == "__main__":
    app.run(main)
