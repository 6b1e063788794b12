"""A C++ host under load, with a pruned network in each of the ways to serve it, beside the dense one.

    python benchmarks/serving_load.py --minutes 10 --network lenet_300_100

The host (custom_ops/serving_host) loads each SavedModel by TensorFlow's C++ LoadSavedModel, as TensorFlow Serving does,
each in a process of its own, and answers batches of one without a pause. A request is a serialized tensor, its answer
too; there is no network. First the ways take turns, from one thread each, for the latencies. Then all are under load at
the same time, from eight threads each, for so many minutes. It ends with an error where an answer failed or differed
from the first, or where the memory at the end is larger than after the first tenth of the load by more than
`MOST_GROWTH` and `MOST_BYTES` together.

The dense SavedModel is the smallest one, of the endpoint alone. For the shrunk one half of the units of each hidden
layer were removed, which is another network: compare it for its speed and size only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import saved_model
import serving_host
from absl import app, flags, logging

import keras_prune
from keras_prune import native
from keras_prune_export.files import write_atomic

_NETWORK = flags.DEFINE_enum("network", "lenet_300_100", sorted(saved_model.NETWORKS), "Which network.")
_MINUTES = flags.DEFINE_float("minutes", 10, "How long all are under load.", lower_bound=0)
_TURNS = flags.DEFINE_integer("turns", 10, "Turns of each way before that, for the latencies.", lower_bound=1)
_TURN = flags.DEFINE_float("turn", 5, "Seconds of a turn, and between two looks at the memory.", lower_bound=0.01)
_WAYS = flags.DEFINE_list("ways", ["dense", "packed", "with op", "shrunk"], "Which ways.")

# What the allocator keeps for threads differs a little from look to look. A host answers some hundred thousand requests
# in a minute: a leak of a few bytes each would be more than this within ten.
MOST_GROWTH = 0.01
MOST_BYTES = 2 << 20
THREADS = 8


def export_dense(model: keras.Model, path: pathlib.Path) -> None:
    """The quantized network's endpoint."""
    quantized = keras_prune.quantize(model)
    saved_model.export_endpoint(quantized, path)


def export_with_op(model: keras.Model, path: pathlib.Path) -> None:
    """On packed weights, where that is faster."""
    keras_prune.export_saved_model(model, path, target="packed")


def export_shrunk(model: keras.Model, path: pathlib.Path) -> None:
    """Half of the units of each hidden layer."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    keras_prune.prune(copy, 0.5, pattern=keras_prune.Channel())
    saved_model.export_endpoint(keras_prune.shrink(keras_prune.strip(copy)), path)


EXPORTS = {
    "dense": export_dense,
    "packed": keras_prune.export_saved_model,
    "with op": export_with_op,
    "shrunk": export_shrunk,
}


def export(folder: pathlib.Path) -> dict[str, int]:
    """Exports every way to ``folder/<way>/1``; the bytes of each."""
    model = saved_model.make_model(_NETWORK.value)
    sizes = {}
    for way in _WAYS.value:
        shutil.rmtree(folder / way, ignore_errors=True)
        (folder / way).mkdir(parents=True)
        EXPORTS[way](model, folder / way / "1")
        sizes[way] = saved_model.num_bytes(folder / way / "1")
    return sizes


def start(folder: pathlib.Path, way: str, binary: pathlib.Path) -> serving_host.LoadTest:
    """The host of one way, which has loaded it."""
    x = np.random.default_rng(0).normal(size=(1, saved_model.NETWORKS[_NETWORK.value][0])).astype(np.float32)
    options = [f"op_library={native.op_path()}"] if way == "with op" else []
    scratch = folder / way / "load_test"
    return serving_host.LoadTest(
        binary, folder / way, request=serving_host.encode({"x": x}), scratch=scratch, options=options
    )


def take_turns(tests: dict[str, serving_host.LoadTest]) -> dict[str, dict[str, Any]]:
    """What each way's host said after the last of its turns."""
    runs: dict[str, dict[str, Any]] = {}
    for _ in range(_TURNS.value):
        for way, test in tests.items():
            runs[way] = test.run(threads=1, requests=10**9, seconds=_TURN.value)
    return runs


def load(test: serving_host.LoadTest) -> list[dict[str, Any]]:
    """What a host said during its time under load."""
    num_looks = max(2, round(60 * _MINUTES.value / _TURN.value))
    return [test.run(threads=THREADS, requests=10**9, seconds=_TURN.value) for _ in range(num_looks)]


def figures(test: serving_host.LoadTest, turns: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one way."""
    resident = [run["resident_bytes"] for run in runs]
    result = {key: runs[-1][key] for key in ("requests", "errors", "first_error", "resident_bytes")}
    result |= {key: turns[key] for key in ("p50_ms", "p99_ms")}
    result["load_ms"] = test.loaded["load_ms"]
    result["model_bytes"] = turns["resident_bytes"] - test.loaded["bytes_before"]
    result["growth_bytes"] = resident[-1] - resident[len(resident) // 10]
    result["resident"] = resident
    return result


def check(way: str, row: dict[str, Any]) -> None:
    """Raises where there was an error, or the memory grew."""
    if row["errors"]:
        raise AssertionError(f"{way}: {row['errors']} errors of {row['requests']}, the first: {row['first_error']}")
    most = MOST_BYTES + MOST_GROWTH * row["resident_bytes"]
    if row["growth_bytes"] > most:
        raise AssertionError(f"{way}: the memory grew by {row['growth_bytes']:,} bytes, expected at most {most:,.0f}")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"| {_NETWORK.value} | folder, bytes | load, ms | memory, MB | requests | errors | p50, ms | p99, ms "
        "| memory then grew by, MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for way, row in rows.items():
        lines.append(
            f"| {way} | {row['folder_bytes']:,} | {row['load_ms']:.0f} | {row['model_bytes'] / 1e6:.1f} "
            f"| {row['requests']:,} | {row['errors']} | {row['p50_ms']:.3f} | {row['p99_ms']:.3f} "
            f"| {row['growth_bytes'] / 1e6:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Exports, loads, sends, prints."""
    del argv
    logging.set_verbosity(logging.ERROR)
    folder = pathlib.Path(flags.FLAGS.out) / "serving_load" / _NETWORK.value
    sizes = export(folder)
    binary = serving_host.build()
    with contextlib.ExitStack() as stack:
        tests = {way: stack.enter_context(start(folder, way, binary)) for way in sizes}
        turns = take_turns(tests)
        print(f"all under load for {_MINUTES.value} minutes", flush=True)
        with concurrent.futures.ThreadPoolExecutor(len(tests)) as pool:
            runs = dict(zip(tests, pool.map(load, tests.values()), strict=True))
        rows = {
            way: {"folder_bytes": sizes[way], **figures(test, turns[way], runs[way])} for way, test in tests.items()
        }
    print(table(rows), flush=True)
    if flags.FLAGS.json:
        write_atomic(flags.FLAGS.json, json.dumps(rows, indent=1).encode())
    for way, row in rows.items():
        check(way, row)


if __name__ == "__main__":
    app.run(main)
