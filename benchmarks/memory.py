r"""Memory of packed and dense networks: the file, the compute layouts, and the peak of a fresh process.

    python benchmarks/memory.py --json out/bench/memory.json

The dense layers of LeNet-300-100, AlexNet and VGG-16, batch 1. Each file is mapped, loaded and run by a process of its
own, which imports NumPy and the runtime only; the growth of its resident memory at the peak counts, pages of the mapped
file included. An entry is a gap and a code in their bits, fillers included: what the layouts are made from.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import layer_files
import layout_report
import networks
import timing
from absl import app, flags

from keras_prune import sparse_format
from keras_prune_export import measure

_JSON = flags.DEFINE_string("json", "out/bench/memory.json", "Where the figures go.")
_QUICK = flags.DEFINE_bool("quick", False, "Small stand-ins for the layers: to try this script.")
_REPORT = flags.DEFINE_string("report", "build/bench/layout_report", "The program that says what layouts need.")


def peak(data: bytes, folder: str) -> dict[str, Any]:
    """Bytes of a file and of the process that runs it."""
    path = pathlib.Path(folder) / "model.tflite"
    path.write_bytes(data)
    return {"file_bytes": len(data), "peak_bytes": measure.peak_memory(path)}


def bench(name: str) -> dict[str, dict[str, Any]]:
    """The network in each form."""
    network = networks.eighth(networks.DENSE[name]) if _QUICK.value else networks.DENSE[name]
    layers = layer_files.random_network(*network)
    packed = [layer_files.packed_bytes(layer) for layer in layers]
    headers = [sparse_format.read_header(sparse_format.encode(layer.codes, layer.codebook)) for layer in layers]
    entry_bytes = sum(header.gap_bytes + header.code_bytes for header in headers)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("float32", "int8"):
            row = rows[f"packed, {kind.removesuffix('32')} activations"] = peak(
                layer_files.packed_file(layers, packed, activations=kind), folder
            )
            row |= layout_report.report(_REPORT.value, packed, activations=kind) | {"entry_bytes": entry_bytes}
        rows["dense float32"] = peak(layer_files.float32_file(layers), folder)
        rows["dense int8"] = peak(layer_files.int8_file(layers), folder)
    return rows


def show(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """Prints a network's table."""
    print(f"{name:28} {'file':>12} {'peak':>12} {'layouts':>12} {'/ entries':>9}")
    for form, row in rows.items():
        layout = f"{row['layout_bytes']:12,} {row['layout_bytes'] / row['entry_bytes']:9.2f}" if "isa" in row else ""
        print(f"  {form:26} {row['file_bytes']:12,} {row['peak_bytes'] or 0:12,} {layout}", flush=True)


def main(argv: list[str]) -> None:
    """Measures the networks and prints a table of each."""
    del argv
    result: dict[str, Any] = {"machine": timing.machine(), "quick": _QUICK.value, "goal": 1.6, "networks": {}}
    for name in networks.DENSE:
        result["networks"][name] = bench(name)
        show(name, result["networks"][name])
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
