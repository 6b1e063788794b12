r"""Packed dense layers of LeNet-300-100, AlexNet and VGG-16 against what a user would pick instead.

    python benchmarks/kernels.py --json out/bench/kernels.json

One thread, pinned to one core, through the real delegate in the real interpreter. All candidates of a network take
turns in one run, so that what slows the machine slows all alike; the figures to read are the ratios, of which each
round gives one. "repeated": blocks of calls of one candidate, as in a program that runs nothing else; its weights are
in the caches as far as they fit. "cold": before each call a read of 128 MB empties the caches, as if much had run in
between; not measured for LeNet, whose network fits into the caches whatever else runs.

Weights are random at the densities of Han et al. 2015 (tables 3 to 5), with a codebook of 15 values, as Han et al. 2016
share them; SciPy's CSR and `tf.sparse` get the same ones as float32. "read" reads as many bytes as the compute layout
has, once through, and does nothing with them: the least time in which a kernel could have its weights.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import layer_files
import layout_report
import networks
import numpy as np
import scipy.sparse
import tensorflow as tf
import timing
from absl import app, flags
from layer_files import Layer

from keras_prune_export import kernel_costs
from keras_prune_export.kernel_costs import Work

_JSON = flags.DEFINE_string("json", "out/bench/kernels.json", "Where the figures go.")
_QUICK = flags.DEFINE_bool("quick", False, "Small stand-ins for the layers and few rounds: to try this script.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "For each network, batch and state of the caches.", lower_bound=0.1)
_NETWORKS = flags.DEFINE_list("networks", None, "Which of them; by default all.")
_REPORT = flags.DEFINE_string("report", "build/bench/layout_report", "The program that says what layouts need.")
_CORE = flags.DEFINE_integer("core", -1, "The core to run on; -1: the last one.")

FLOAT, INT8 = "packed, float activations", "packed, int8 activations"
DENSE, DENSE_INT8, CSR, TF_SPARSE = "dense float32", "dense int8", "SciPy CSR", "tf.sparse"
READ_FLOAT, READ_INT8 = "read, float layout", "read, int8 layout"
BASELINES = (DENSE, DENSE_INT8, CSR, TF_SPARSE)
_FEWEST_COLD = 1 << 20  # weights

_BEATS_DENSE = {FLOAT: {DENSE: 1.0}}
# Candidate -> baseline -> how many times as fast it shall be, batch 1.
GOALS: dict[str, dict[str, dict[str, float]]] = {
    "LeNet-300-100": {FLOAT: {DENSE: 3.5}, INT8: {DENSE_INT8: 1.0}},
    "AlexNet fc6": {FLOAT: {DENSE: 16, DENSE_INT8: 2.5, CSR: 4.5, TF_SPARSE: 20}, INT8: {DENSE: 45, DENSE_INT8: 7}},
    "VGG-16 fc6": {FLOAT: {DENSE: 35, DENSE_INT8: 9, CSR: 3.5, TF_SPARSE: 14}, INT8: {DENSE: 75, DENSE_INT8: 19}},
}
BATCHES = (1, 64)
SMALL = layer_files.random_network(64, [(64, 0.1)])  # brings back the code, where the caches are emptied
NETWORKS = {"LeNet-300-100": networks.DENSE["LeNet-300-100"]} | {
    f"{network} {name}": networks.single(network, name) for network in ("AlexNet", "VGG-16") for name in networks.NAMES
}


def csr_call(layers: Sequence[Layer], x: np.ndarray) -> Callable[[], Any]:
    """SciPy's CSR product with a vector or, of a batch, a matrix; bias and ReLU."""
    column = x[0] if len(x) == 1 else np.ascontiguousarray(x.T)
    biases = [layer.bias if len(x) == 1 else layer.bias[:, None] for layer in layers]
    matrices = [scipy.sparse.csr_matrix(layer.weights()) for layer in layers]

    def call() -> np.ndarray:
        y = column
        for layer, matrix, bias in zip(layers, matrices, biases, strict=True):
            y = matrix @ y + bias
            y = np.maximum(y, 0) if layer.activation else y
        return y

    return call


def tf_sparse_call(layers: Sequence[Layer], x: np.ndarray) -> Callable[[], Any]:
    """`tf.sparse.sparse_dense_matmul` in a `tf.function`."""
    operands = [(tf.sparse.from_dense(layer.weights()), tf.constant(layer.bias[:, None])) for layer in layers]
    column = tf.constant(x.T)

    @tf.function
    def call() -> tf.Tensor:
        y = column
        for layer, (matrix, bias) in zip(layers, operands, strict=True):
            y = tf.sparse.sparse_dense_matmul(matrix, y) + bias
            y = tf.nn.relu(y) if layer.activation else y
        return y

    return call


def candidates(layers: Sequence[Layer], packed: Sequence[bytes], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What takes turns, and what the kernels made of the packed weights.

    Returns:
        Name -> call; and candidate -> sums of `layout_report.report`.
    """
    x = layer_files.random_input(batch, layers[0].codes.shape[1])
    kinds = {FLOAT: "float32", INT8: "int8"}
    files = {name: layer_files.packed_file(layers, packed, activations=kind) for name, kind in kinds.items()}
    calls = {name: layer_files.interpreter_call(data, batch) for name, data in files.items()}
    calls[DENSE] = layer_files.interpreter_call(layer_files.float32_file(layers), batch)
    calls[DENSE_INT8] = layer_files.interpreter_call(layer_files.int8_file(layers), batch)
    calls |= {CSR: csr_call(layers, x), TF_SPARSE: tf_sparse_call(layers, x)}
    layouts = {
        name: layout_report.report(_REPORT.value, packed, batch=batch, activations=kind) for name, kind in kinds.items()
    }
    calls[READ_FLOAT] = timing.reader(layouts[FLOAT]["layout_bytes"])
    calls[READ_INT8] = timing.reader(layouts[INT8]["layout_bytes"])
    return calls, layouts


def bench(name: str) -> dict[str, Any]:
    """All candidates of one network by batch size."""
    network = networks.eighth(NETWORKS[name]) if _QUICK.value else NETWORKS[name]
    layers = layer_files.random_network(*network)
    packed = [layer_files.packed_bytes(layer) for layer in layers]
    num_weights, kept = sum(x.codes.size for x in layers), sum(x.kept for x in layers)
    states = timing.STATES if num_weights >= _FEWEST_COLD else timing.STATES[:1]
    result: dict[str, Any] = {"weights": num_weights, "kept": kept, "shapes": [x.codes.shape for x in layers]}
    result["batches"] = {}
    for batch in BATCHES:
        calls, layouts = candidates(layers, packed, batch)
        small, _ = candidates(SMALL, [layer_files.packed_bytes(x) for x in SMALL], batch)
        seconds = 0.2 if _QUICK.value else _SECONDS.value
        samples = timing.in_states(calls, seconds=seconds, states=states, small=small)
        tables = {state: {base: timing.rows(times, base) for base in (FLOAT, INT8)} for state, times in samples.items()}
        chosen = [kernel_costs.packed_pays([Work(len(x.codes), x.codes.shape[1], x.kept, batch)]) for x in layers]
        result["batches"][str(batch)] = {"states": tables, "layouts": layouts, "exporter_computes": chosen}
    return result | {"goals": GOALS.get(name, _BEATS_DENSE)}


def show(name: str, figures: Mapping[str, Any]) -> None:
    """Prints a network's figures: times, and how many times as fast the packed ones are."""
    for batch, row in figures["batches"].items():
        for state, tables in row["states"].items():
            print(f"{name}, batch {batch}, {state:17} {'median ms':>10} {'p10':>9} {'p90':>9}  x float   x int8")
            for case, line in tables[FLOAT].items():
                times = f"{line['median_ms']:10.4f} {line['p10_ms']:9.4f} {line['p90_ms']:9.4f}"
                print(f"  {case:36} {times} {line['ratio']:8.2f} {tables[INT8][case]['ratio']:8.2f}", flush=True)


def main(argv: list[str]) -> None:
    """Times the networks and prints a table of each."""
    del argv
    before = timing.machine()
    core = timing.pin(_CORE.value)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    result: dict[str, Any] = {"machine": before, "core": core, "quick": _QUICK.value, "networks": {}}
    for name in _NETWORKS.value or NETWORKS:
        result["networks"][name] = bench(name)
        show(name, result["networks"][name])
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
