"""The tables of docs/performance.md, made from the benchmarks' figures."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FLOAT, INT8 = "packed, float activations", "packed, int8 activations"
DENSES = ("dense float32", "dense int8")
CHOICES = ("kernel_choices", "kernel_choices_256")  # of codebooks of 16 and of 256 values
PARTS = ("kernels", "scaling", "thread_scaling", "memory", "op_overhead", "convolutions", *CHOICES)
GOOD = 1.1  # of the best form's time
NOTHING = "*Not measured yet.*"
Figures = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines: list[Sequence[str]] = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def times(number: float) -> str:
    """A ratio: 3.46×, 34.6×, 346×."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}×"


def spread(row: Figures) -> str:
    """A ratio with its 10th and 90th percentile."""
    return f"{times(row['ratio'])} ({times(row['ratio_p10'])} … {times(row['ratio_p90'])})"


def milliseconds(row: Figures) -> str:
    """A median with three digits."""
    return f"{row['median_ms']:#.3g}".rstrip(".")


def machine(figures: Figures) -> str:
    """The machines of all parts: one line each, or one for all that were measured on the same."""
    lines: dict[str, list[str]] = {}
    for name, part in figures.items():
        facts = part["machine"]
        caches = ", ".join(f"{level} {size}" for level, size in facts["caches"].items())
        text = f"{facts['cpu']}, {facts['cores']} cores ({caches}; {' '.join(facts['extensions'])}), {facts['system']}"
        lines.setdefault(f"{text}, {facts['runtime']}", []).append(f"{name} {facts['load']:g}")
    return "\n".join(f"- {text}; load of the system at the start: {', '.join(v)}" for text, v in lines.items())


def goals(figures: Figures) -> str:
    """Each goal beside what was measured."""
    rows = []
    for name, network in figures["kernels"]["networks"].items():
        states = network["batches"]["1"]["states"]
        for packed, wanted in network["goals"].items():
            for baseline, goal in wanted.items():
                cells = [spread(states[s][packed][baseline]) if s in states else "" for s in ("repeated", "cold")]
                ratio = states["repeated"][packed][baseline]["ratio"]
                rows.append([f"{name}, {packed}", baseline, times(goal), *cells, "yes" if ratio >= goal else "**no**"])
    return table(("layer", "against", "goal", "repeated", "cold", "reached, repeated"), rows)


def dense_layers(figures: Figures) -> str:
    """Milliseconds of all layers, and how many times as fast the packed ones are."""
    rows = []
    for name, network in figures["kernels"]["networks"].items():
        for batch, row in network["batches"].items():
            for state, tables in row["states"].items():
                medians = [milliseconds(tables[FLOAT][case]) for case in (FLOAT, INT8, *DENSES)]
                ratios = [bold_loss(tables[packed][dense]["ratio"]) for packed in (FLOAT, INT8) for dense in DENSES]
                rows.append([f"{name}, {state}", batch, *medians, *ratios])
    head = ("layer", "batch", "float, ms", "int8, ms", "dense float32, ms", "dense int8, ms")
    pairs = ("float / dense float32", "float / dense int8", "int8 / dense float32", "int8 / dense int8")
    return table((*head, *pairs), rows)


def bold_loss(ratio: float) -> str:
    """A ratio, bold where the packed layer is the slower one."""
    return times(ratio) if ratio >= 1 else f"**{times(ratio)}**"


def roofline(figures: Figures) -> str:
    """Bytes a second of each kernel beside a read of as many bytes, batch 1."""
    rows = []
    for name, network in figures["kernels"]["networks"].items():
        row = network["batches"]["1"]
        for packed, read in ((FLOAT, "read, float layout"), (INT8, "read, int8 layout")):
            layout = row["layouts"][packed]
            kernels = ", ".join(f"`{kernel}`" for kernel in dict.fromkeys(layout["kernels"]))
            for state, tables in row["states"].items():
                kernel_ms, read_ms = (tables[FLOAT][case]["median_ms"] for case in (packed, read))
                rates = [layout["layout_bytes"] / ms / 1e6 for ms in (kernel_ms, read_ms)]
                cells = [f"{layout['layout_bytes'] / 1e6:.3g}", f"{layout['layout_bytes'] / layout['kept']:.2f}"]
                cells += [f"{1e6 * kernel_ms / layout['kept']:.3f}", *(f"{rate:.1f}" for rate in rates)]
                rows.append([f"{name}, {state}", kernels, *cells, f"{read_ms / kernel_ms:.0%}"])
    head = ("layer", "kernel", "layout, MB", "bytes a kept weight", "ns a kept weight", "GB/s", "read, GB/s", "share")
    return table(head, rows)


def crossings(figures: Figures) -> str:
    """Where packed and dense layers need the same time."""
    rows = []
    for name, sweep in figures["scaling"]["sweeps"].items():
        for state, found in sweep["crossings"].items():
            for crossing in found:
                x = f"{100 * crossing['x']:.1f} %" if name == "density" else f"{crossing['x']:,.0f}"
                verdict = f"{crossing['faster']} {x}"
                rows.append([f"{name}, {state}", crossing["packed"], crossing["dense"], verdict])
    head = ("what changes", "layer", "against", "packed is faster")
    return table(head, rows) if rows else "Packed and dense layers cross nowhere in these ranges."


def threads(figures: Figures) -> str:
    """How many times as fast two threads are."""
    rows = [
        [
            f"{name}, {state}",
            batch,
            *map(milliseconds, (row["one thread"], row["two threads"])),
            spread(row["one thread"]),
        ]
        for batch, states in figures["thread_scaling"]["batches"].items()
        for state, names in states.items()
        for name, row in names.items()
    ]
    return table(("VGG-16 fc6", "batch", "one thread, ms", "two threads, ms", "as fast"), rows)


def memory(figures: Figures) -> str:
    """Bytes of files, layouts and processes."""
    rows = []
    for name, forms in figures["memory"]["networks"].items():
        for form, row in forms.items():
            peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes']:,}"
            entries = f"{row['entry_bytes']:,}" if "isa" in row else ""
            layout = f"{row['layout_bytes']:,}" if "isa" in row else ""
            share = f"{row['layout_bytes'] / row['entry_bytes']:.2f}" if "isa" in row else ""
            dense = forms["dense float32"]["peak_bytes"]
            less = f"{dense / row['peak_bytes']:.1f}×" if row["peak_bytes"] and dense else ""
            rows.append([f"{name}, {form}", f"{row['file_bytes']:,}", entries, layout, share, peak, less])
    head = ("dense layers of", "file", "entries", "compute layouts", "layouts / entries", "peak of the process")
    return table((*head, "dense float32's peak is"), rows)


def op_overhead(figures: Figures) -> str:
    """Microseconds of the TensorFlow op's Compute beside those of its kernel."""
    keys = ("kernel_us", "compute_us", "added_us", "median_us")
    rows = [
        [f"{row['layer']}, {row['shape']}, {row['activations']} activations", *(f"{row[key]:.2f}" for key in keys)]
        for row in figures["op_overhead"]["layers"]
    ]
    return table(("layer", "kernel, µs", "Compute, µs", "added, µs", "added, median, µs"), rows)


def convolutions(figures: Figures) -> str:
    """Microseconds of each form of the layers, and how many times as fast packed ones are."""
    part = figures["convolutions"]
    rows = []
    total = {"layer": "**all thirteen**", "count": 13} | {key: part[key] for key in part if key != "layers"}
    for row in [*part["layers"], total]:
        micros = [f"{row[f'{form}_us']:,.0f}" for form in ("packed", "packed_int8", "dense", "dense_int8")]
        ratios = [bold_loss(row[key]) for key in ("ratio", "int8_ratio", "int8_to_dense_int8")]
        rows.append([row["layer"], str(row["count"]), *micros, *ratios])
    head = ("layer", "times", "float, µs", "int8, µs", "dense float32, µs", "dense int8, µs")
    return table((*head, "float / dense float32", "int8 / dense float32", "int8 / dense int8"), rows)


def choices(figures: Figures) -> str:
    """How often the exporter's choice is as good as the best, and what it chose."""
    rows = []
    for part in (figures[name] for name in CHOICES if name in figures):
        for kind, judged in part["layers"].items():
            worse = [row["times_the_best"] for row in judged]
            forms = [row["choice"] for row in judged]
            chosen = ", ".join(f"{form} {forms.count(form)}" for form in sorted(set(forms)))
            good = sum(ratio <= GOOD for ratio in worse) / len(worse)
            cells = [str(part["values"]), str(len(judged)), f"{good:.1%}", times(max(worse)), chosen]
            rows.append([f'`activations="{kind}"`', *cells])
    head = ("exports with", "values", "layers", "within 10 % of the best", "worst, of the best's time", "chosen")
    return table(head, rows)


# Name of the table -> the part that it needs, and its function.
TABLES: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "machine": ("", machine),
    "goals": ("kernels", goals),
    "dense layers": ("kernels", dense_layers),
    "roofline": ("kernels", roofline),
    "crossings": ("scaling", crossings),
    "threads": ("thread_scaling", threads),
    "memory": ("memory", memory),
    "op": ("op_overhead", op_overhead),
    "convolutions": ("convolutions", convolutions),
    "choices": ("kernel_choices", choices),
}


def render(page: str, figures: Figures) -> str:
    """The page with the tables of these figures.

    Args:
        page: the page as it is.
        figures: name of a benchmark -> what it wrote.
    """
    for name, (part, make) in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if len(block.findall(page)) != 1:
            raise ValueError(f"performance page: expected one block <!-- {name} --> ... <!-- end -->; put it back")
        text = make(figures) if (part in figures if part else figures) else NOTHING
        page = block.sub(lambda match, text=text: match[1] + text + match[2], page)  # type: ignore[misc]
    return page


def merged(old: Figures, folder: pathlib.Path) -> dict[str, Any]:
    """The old figures, and over them those of a folder.

    Raises:
        ValueError: they are of a quick run, or there are none.
    """
    new = {part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS if _is_there(folder, part)}
    quick = [part for part, values in new.items() if values["quick"]]
    if quick or not new:
        raise ValueError(f"{folder}: expected results of `make bench`, got {quick or 'none'} of --quick runs; run it")
    return {part: values for part in PARTS if (values := new.get(part, old.get(part))) is not None}


def _is_there(folder: pathlib.Path, part: str) -> bool:
    return (folder / f"{part}.json").is_file()
