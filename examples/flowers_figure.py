"""What the runs on the flowers say: a table, and accuracy against FLOPs."""

from __future__ import annotations

import io
import json
import pathlib
import re
import statistics
from typing import Any

from keras_prune_export.files import write_atomic
from keras_prune_export.text_table import text_table

# Of the lines, in this order.
COLORS = {
    "taylor": "tab:green",
    "activation mean": "tab:blue",
    "minimum weight": "tab:orange",
    "random": "0.5",
    "scratch": "tab:red",
}
_NAMES = re.compile(r"(?P<method>[a-z ]+)(_(?P<level>[\d.]+))?_seed(?P<seed>\d+)")

Results = dict[str, Any]


def collect(folder: pathlib.Path) -> Results:
    """All finished runs of a folder.

    Returns:
        method -> level of FLOPs ("1" for the dense model) -> seed -> the run's result; and under "files" seed ->
        file -> what the device runtime says.
    """
    results: Results = {"dense": {}, **{method: {} for method in COLORS}, "files": {}}
    for path in sorted(folder.glob("*_seed*.json")):
        match = _NAMES.fullmatch(path.stem)
        if match is None:
            continue
        method, level, seed = match["method"], match["level"] or "1", match["seed"]
        place = results[method] if method == "files" else results[method].setdefault(level, {})
        place[seed] = json.loads(path.read_text())
    return results


def table(results: Results) -> str:
    """Mean accuracy and range by method and level, then the measured speed of Taylor's files."""
    rows = [["method", "FLOPs x", "parameters x", "accuracy %", "lowest", "highest", "change", "seeds"]]
    dense = results["dense"]["1"]
    for method in ("dense", *COLORS):
        for level in _falling(results[method]):
            rows.append([method, *_cells(results[method][level], dense)])
    return text_table(rows) + "\n\n" + _speed_table(results["files"])


def _falling(levels: dict[str, Any]) -> list[str]:
    return sorted(levels, key=float, reverse=True)


def _cells(runs: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    """Of a point: how many times smaller it is, and its accuracies; changes are from the same seeds' dense models."""
    ratios = [_mean(dense[seed][key] / run[key] for seed, run in runs.items()) for key in ("flops", "parameters")]
    accuracies = [run["accuracy"] for run in runs.values()]
    change = _mean(run["accuracy"] - dense[seed]["accuracy"] for seed, run in runs.items())
    numbers = [_mean(accuracies), min(accuracies), max(accuracies)]
    return [*(f"{x:.2f}" for x in ratios), *(f"{x:.1f}" for x in numbers), f"{change:+.1f}", str(len(runs))]


def _mean(values: Any) -> float:
    return statistics.mean(values)


def _speed_table(files: dict[str, Any]) -> str:
    rows = [["file", "seed", "accuracy %", "bytes", "ms", "p10", "p90", "times faster"]]
    for seed, judged in sorted(files.items()):
        for name, file in judged.items():
            times = [f"{file[key]:.3f}" for key in ("latency_ms", "latency_ms_p10", "latency_ms_p90")]
            faster = judged["dense"]["latency_ms"] / file["latency_ms"]
            rows.append(
                [name, seed, f"{100 * file['accuracy']:.1f}", f"{file['num_bytes']:,}", *times, f"{faster:.2f}"]
            )
    return text_table(rows)


def draw(results: Results, path: pathlib.Path) -> None:
    """One line for each method, the mean of the seeds, with the range as a band."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    dense = results["dense"]["1"]
    accuracy = _mean(run["accuracy"] for run in dense.values())
    axes.axhline(accuracy, color="0.3", linewidth=0.8, linestyle=":")
    axes.annotate("dense", (1, accuracy), xytext=(0, 4), textcoords="offset points", ha="right", fontsize="small")
    for method, color in COLORS.items():
        if results[method]:
            first = {} if method == "scratch" else {"1": dense}
            _line(axes, {**first, **results[method]}, dense=dense, label=method, color=color)
    axes.set(xlabel="FLOPs, share of the dense model's", ylabel="accuracy (%)", xlim=(1.02, 0))
    axes.set_title("SqueezeNet 1.1 on flowers, channels removed by four criteria", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower left", title=f"mean and range of {len(dense)} seeds")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_atomic(path, buffer.getvalue())


def _line(axes: Any, levels: dict[str, Any], *, dense: dict[str, Any], label: str, color: str) -> None:
    points = [levels[level] for level in _falling(levels)]
    shares = [_mean(run["flops"] / dense[seed]["flops"] for seed, run in runs.items()) for runs in points]
    accuracies = [[run["accuracy"] for run in runs.values()] for runs in points]
    axes.plot(shares, [_mean(values) for values in accuracies], "-o", color=color, label=label, markersize=4)
    axes.fill_between(shares, [min(v) for v in accuracies], [max(v) for v in accuracies], color=color, alpha=0.15)
