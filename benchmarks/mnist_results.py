r"""LeNet-300-100 or LeNet-5 on MNIST over several seeds: runs examples/mnist_lenet.py for each and prints the means.

python benchmarks/mnist_results.py --out out/results [--data mnist.npz] [--net lenet5] [--method iterative]
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from absl import app, flags

from keras_prune_export.files import write_atomic

_DATA = flags.DEFINE_string("data", None, "mnist.npz; by default keras.datasets.mnist (downloaded once).")
_OUT = flags.DEFINE_string("out", "out/results", "Where artifacts go, a folder for each seed.")
_JSON = flags.DEFINE_string("json", None, "Also write the results of all seeds and their means to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "The first seed.")
_SEEDS = flags.DEFINE_integer("num_seeds", 3, "How many seeds.", lower_bound=1)
_NET = flags.DEFINE_string("net", "lenet_300_100", "Which network, as the example has them.")
_METHOD = flags.DEFINE_string("method", "gradual", "How to prune, as the example has it.")
_REGULARIZER = flags.DEFINE_string("regularizer", "l2", "Which penalty, as the example has it.")

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "mnist_lenet.py"


def run_seed(seed: int, out: pathlib.Path, data: str | None) -> dict[str, Any]:
    """One run of the example; its log goes to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / "result.json"
    command = [sys.executable, str(EXAMPLE), f"--seed={seed}", f"--out={out}", f"--json={target}"]
    command += [f"--net={_NET.value}", f"--method={_METHOD.value}", f"--regularizer={_REGULARIZER.value}"]
    with (out / "log.txt").open("w") as log:
        print(f"seed {seed}: training, log in {log.name} ...", flush=True)
        subprocess.run([*command, *([f"--data={data}"] if data else [])], check=True, stdout=log, stderr=log)
    return json.loads(target.read_text())


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table of the means, with the range over the seeds where it matters."""
    numbers = [key for key, value in results[0].items() if not isinstance(value, str)]
    mean = {key: statistics.mean(result[key] for result in results) for key in numbers}

    def spread(key: str) -> str:
        values = [result[key] for result in results]
        return f"{mean[key]:.2f} % ({min(values):.2f} … {max(values):.2f})"

    rows = [
        ("", "float32 `.tflite`", "keras_prune", "ratio"),
        ("---", "--:", "--:", "--:"),
        ("test error", spread("dense_error"), spread("error"), ""),
        ("weights", *_pair(mean["weights_total"], mean["weights_kept"])),
        ("bytes of the whole file", *_pair(mean["float_bytes"], mean["packed_bytes"])),
        ("latency, µs", *_pair(1e3 * mean["latency_ms_float"], 1e3 * mean["latency_ms_packed"], ".1f")),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def parts(results: list[dict[str, Any]]) -> str:
    """Where the packed file's bytes are, means; how far it is above the bound that is said in docs/evaluating.md."""
    names = ("weight_bytes", "entropy_bound", "codebook_bytes", "bias_bytes", "flatbuffer_bytes", "packed_bytes")
    weights, bound, codebooks, biases, tables, total = (statistics.mean(r[name] for r in results) for name in names)
    least = bound + codebooks + biases
    return (
        f"bytes: positions and codes {weights:,.0f} (entropy bound {bound:,.0f}), codebooks {codebooks:,.0f}, biases "
        f"{biases:,.0f}, flatbuffer {tables:,.0f}; without it {(total - tables) / least - 1:+.1%} against the bound"
    )


def _pair(before: float, after: float, form: str = ",.0f") -> tuple[str, str, str]:
    return f"{before:{form}}", f"{after:{form}}", f"{before / after:.1f}×"


def main(argv: list[str]) -> None:
    """Runs the seeds in turn."""
    del argv
    out = pathlib.Path(_OUT.value)
    seeds = range(_SEED.value, _SEED.value + _SEEDS.value)
    results = [run_seed(seed, out / f"seed_{seed}", _DATA.value) for seed in seeds]
    mismatches = sum(result["prediction_mismatches"] for result in results)
    print(f"\n{table(results)}\n\n{parts(results)}")
    print(f"predictions of the files that differ from the quantized Keras models': {mismatches}")
    write_atomic(_JSON.value or out / "results.json", json.dumps(results, indent=2).encode())


if __name__ == "__main__":
    app.run(main)
