r"""Memory of packed and dense networks: the file, the compute layouts, and the peak of a fresh process.

    python benchmarks/memory.py --json out/bench/memory.json
    python benchmarks/memory.py --in_place build/cpp/in_place_bench

The dense layers of LeNet-300-100, AlexNet and VGG-16, batch 1. Each file is mapped, loaded and run by a process of its
own, which imports NumPy and the runtime only; the growth of its resident memory at the peak counts, pages of the mapped
file included. An entry is a gap and a code in their bits, fillers included: what the layouts are made from. The last
column compares the peak with that of the dense float32 file. The second command shows instead how long AlexNet's fc7
takes without a layout, computed from the packed bytes as they are in the file.
"""

from __future__ import annotations

import pathlib
import subprocess
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
_IN_PLACE = flags.DEFINE_string("in_place", "", "The program that computes a layer from its packed bytes.")


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
    heads = ("file", "entries", "layouts", "peak")
    print(
        f"{name:30} " + " ".join(f"{head:>12}" for head in heads) + f" {'layouts / entries':>18} {'dense / peak':>13}"
    )
    for form, row in rows.items():
        cells = [row["file_bytes"], row.get("entry_bytes"), row.get("layout_bytes"), row["peak_bytes"]]
        ratio = row["layout_bytes"] / row["entry_bytes"] if "isa" in row else None
        less = rows["dense float32"]["peak_bytes"] / row["peak_bytes"] if row["peak_bytes"] else None
        numbers = " ".join(f"{'' if cell is None else format(cell, ',d'):>12}" for cell in cells)
        print(f"  {form:28} {numbers} {_ratio(ratio):>18} {_ratio(less):>13}", flush=True)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def show_in_place() -> None:
    """Prints how long AlexNet's fc7 takes from its packed bytes, and with each layout."""
    network = networks.eighth(networks.DENSE["AlexNet"]) if _QUICK.value else networks.DENSE["AlexNet"]
    packed = layer_files.packed_bytes(layer_files.random_network(*network)[1])
    with tempfile.NamedTemporaryFile(suffix=".packed") as file:
        file.write(packed)
        file.flush()
        subprocess.run([_IN_PLACE.value, file.name], check=True)


def main(argv: list[str]) -> None:
    """Measures the networks and prints a table of each."""
    del argv
    if _IN_PLACE.value:
        show_in_place()
        return
    result: dict[str, Any] = {"machine": timing.machine(), "quick": _QUICK.value, "goal": 1.6, "networks": {}}
    for name in networks.DENSE:
        result["networks"][name] = bench(name)
        show(name, result["networks"][name])
    timing.write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
