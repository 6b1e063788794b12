r"""Packed SavedModels against dense ones: bytes of the folder, time to load, memory, latency.

    python benchmarks/saved_model.py --out out/bench --json out/bench/saved_model.json

The dense layers of LeNet-300-100, AlexNet and VGG-16 with random Laplace weights at random positions, at the densities
of Han et al. 2015, tables 3 to 5; 4-bit codebooks. Each SavedModel is loaded by stock TensorFlow in a process of its
own, which does not import this package; for the latency all take turns in one. "endpoint only" is the smallest dense
SavedModel, of the endpoint and its variables; `model.export` stores these twice. The large networks need 8 GB of memory
and 3 GB of disk for a while.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import statistics
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import keras_prune
from keras_prune_export.files import write_atomic

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights.")
_LOADS = flags.DEFINE_integer("loads", 3, "Processes that load each SavedModel, taking turns.", lower_bound=1)
_MODELS = flags.DEFINE_list("models", ["lenet_300_100", "alexnet", "vgg16"], "Which of the networks.")

# (inputs, [(units, density), ...])
NETWORKS = {
    "lenet_300_100": (784, [(300, 0.08), (100, 0.09), (10, 0.26)]),
    "alexnet": (9216, [(4096, 0.09), (4096, 0.09), (1000, 0.25)]),
    "vgg16": (25088, [(4096, 0.04), (4096, 0.04), (1000, 0.23)]),
}

# Loads a SavedModel, serves one example, prints what that took, and keeps the result.
LOAD = """
import json, sys, time
import numpy as np, tensorflow as tf
tf.zeros(1) + 1
def memory(key):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
x = tf.constant(np.random.default_rng(0).normal(size=(1, int(sys.argv[1]))), tf.float32)
before, start = memory("VmRSS"), time.perf_counter()
model = tf.saved_model.load(sys.argv[2])
load_ms = 1e3 * (time.perf_counter() - start)
(result,) = model.signatures["serving_default"](x=x).values()
np.save(sys.argv[3], result.numpy())
print(json.dumps({"load_ms": load_ms, "resident_bytes": memory("VmRSS") - before,
    "peak_bytes": memory("VmHWM") - before}))
"""

# Loads all SavedModels, serves one example by each in turn, and prints the median milliseconds of each.
SERVE = """
import json, sys, time
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
x = tf.constant(np.random.default_rng(0).normal(size=(1, int(sys.argv[1]))), tf.float32)
serve = [tf.saved_model.load(path).signatures["serving_default"] for path in sys.argv[2:]]
seconds, end = [], time.perf_counter() + 20
while len(seconds) < 50 or (time.perf_counter() < end and len(seconds) < 2000):
    times = []
    for call in serve:
        start = time.perf_counter()
        call(x=x)
        times.append(1e3 * (time.perf_counter() - start))
    seconds.append(times)
print(json.dumps(np.median(seconds[5:], axis=0).tolist()))
"""


def make_model(name: str) -> keras.Model:
    """A network with Laplace weights, pruned at random."""
    num_inputs, stack = NETWORKS[name]
    rng = np.random.default_rng(_SEED.value)
    model = keras.Sequential([keras.Input((num_inputs,), name="x")])
    for index, (units, density) in enumerate(stack):
        layer = keras.layers.Dense(units, "relu" if index < len(stack) - 1 else None, bias_initializer="normal")
        model.add(layer)
        kept = np.flatnonzero(rng.random(layer.kernel.shape, dtype=np.float32) < density)
        values = np.zeros(layer.kernel.shape, np.float32)
        values.reshape(-1)[kept] = rng.laplace(0, 0.05, len(kept))
        layer.kernel.assign(values)
    return model


def quantize(model: keras.Model) -> None:
    """Gives the kernels the values that the packed file has, so that the dense one must compute the same."""
    for layer in model.layers:
        codes, codebook = keras_prune.Codebook(4).fit(layer.kernel.numpy())
        layer.kernel.assign(codebook[codes])


def export_endpoint(model: keras.Model, path: pathlib.Path) -> None:
    """The dense SavedModel of the endpoint alone."""
    holder = tf.Module()
    holder.kept = [variable.value for variable in model.weights]
    spec = tf.TensorSpec((None, model.input_shape[1]), tf.float32, name="x")
    serve = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    tf.saved_model.save(holder, str(path), signatures=serve.get_concrete_function())


def export_all(name: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The three SavedModels of a network."""
    paths = {kind: folder / kind for kind in ("packed", "endpoint only", "model.export")}
    for path in paths.values():
        shutil.rmtree(path, ignore_errors=True)
    model = make_model(name)
    keras_prune.export_saved_model(model, paths["packed"])
    quantize(model)
    export_endpoint(model, paths["endpoint only"])
    model.export(str(paths["model.export"]), verbose=False)
    return paths


def num_bytes(folder: pathlib.Path) -> int:
    """All files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def child(script: str, *arguments: object) -> Any:
    """What a process of its own prints last."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def bench(name: str) -> dict[str, dict[str, float]]:
    """Figures of each SavedModel; asserts that all compute the same bits."""
    folder, num_inputs = pathlib.Path(_OUT.value) / "saved_model" / name, NETWORKS[name][0]
    folder.mkdir(parents=True, exist_ok=True)
    paths = export_all(name, folder)
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in paths}
    for _ in range(_LOADS.value):
        for kind, path in paths.items():
            runs[kind].append(child(LOAD, num_inputs, path, folder / f"{kind}.npy"))
    results = [np.load(folder / f"{kind}.npy") for kind in paths]
    assert all(np.array_equal(results[0], result) for result in results), f"{name}: results differ"
    figures = {
        kind: {key: statistics.median(run[key] for run in runs[kind]) for key in runs[kind][0]} for kind in paths
    }
    latencies = child(SERVE, num_inputs, *paths.values())
    for latency, (kind, path) in zip(latencies, paths.items(), strict=True):
        figures[kind]["latency_ms"] = latency
        figures[kind]["num_bytes"] = num_bytes(path)
        figures[kind]["graph_bytes"] = (path / "saved_model.pb").stat().st_size
        shutil.rmtree(path)
    return figures


def table(name: str, figures: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"| {name} | bytes | of these graph | packed is smaller by | load, ms | peak, MB | then, MB | latency, ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, row in figures.items():
        ratio = row["num_bytes"] / figures["packed"]["num_bytes"]
        memory = f"{row['peak_bytes'] / 1e6:.0f} | {row['resident_bytes'] / 1e6:.0f}"
        lines.append(
            f"| {kind} | {row['num_bytes']:,} | {row['graph_bytes']:,} | {ratio:.1f}× | {row['load_ms']:.0f} "
            f"| {memory} | {row['latency_ms']:.3f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Runs the networks that were asked for."""
    del argv
    logging.set_verbosity(logging.ERROR)
    figures: dict[str, Any] = {}
    for name in _MODELS.value:
        figures[name] = bench(name)
        print(table(name, figures[name]), end="\n\n", flush=True)
    if _JSON.value:
        write_atomic(_JSON.value, json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    app.run(main)
