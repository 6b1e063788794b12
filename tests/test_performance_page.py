"""docs/performance.md shows the figures of docs/figures/performance.json and no others."""

import importlib
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "figures" / "performance.json"


@pytest.fixture(scope="module")
def tables():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    return importlib.import_module("performance_tables")


def row(median, ratio=1.0):
    keys = ("median_ms", "p10_ms", "p90_ms", "ratio", "ratio_p10", "ratio_p90")
    return dict(zip(keys, (median, 0.9 * median, 1.1 * median, ratio, 0.9 * ratio, 1.1 * ratio), strict=True))


MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "caches": {"L1": "32K"},
    "extensions": ["avx2"],
    "system": "Linux",
    "runtime": "ai-edge-litert 2",
    "load": 0.1,
}


def kernels_figures():
    medians = {
        "packed, float activations": 1.0,
        "packed, int8 activations": 0.5,
        "dense float32": 20.0,
        "dense int8": 0.75,
        "read, float layout": 0.25,
        "read, int8 layout": 0.25,
    }
    by_base = {base: {name: row(ms, ms / medians[base]) for name, ms in medians.items()} for base in list(medians)[:2]}
    layout = {"layout_bytes": 2_000_000, "kept": 1_000_000, "kernels": ["a_kernel", "a_kernel"], "isa": "avx2"}
    batch = {"states": {"repeated": by_base}, "layouts": dict.fromkeys(list(medians)[:2], layout)}
    goals = {"packed, float activations": {"dense float32": 16, "dense int8": 2.5}}
    return {"machine": MACHINE, "quick": False, "networks": {"net": {"goals": goals, "batches": {"1": batch}}}}


def test_the_page_shows_the_figures(tables):
    figures = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    assert tables.render(PAGE.read_text(), figures) == PAGE.read_text()


def test_tables_of_kernels(tables):
    figures = {"kernels": kernels_figures()}
    assert tables.goals(figures).splitlines()[2:] == [
        "| net, packed, float activations | dense float32 | 16.0× | 20.0× (18.0× … 22.0×) |  | yes |",
        "| net, packed, float activations | dense int8 | 2.50× | 0.75× (0.68× … 0.83×) |  | **no** |",
    ]
    assert tables.dense_layers(figures).splitlines()[2] == (
        "| net, repeated | 1 | 1.00 | 0.500 | 20.0 | 0.750 | 20.0× | **0.75×** | 40.0× | 1.50× |"
    )
    assert tables.roofline(figures).splitlines()[2:] == [
        "| net, repeated | `a_kernel` | 2 | 2.00 | 1.000 | 2.0 | 8.0 | 25% |",
        "| net, repeated | `a_kernel` | 2 | 2.00 | 0.500 | 4.0 | 8.0 | 50% |",
    ]


def test_quick_results_are_refused(tables, tmp_path):
    with pytest.raises(ValueError, match="expected results of `make bench`, got none"):
        tables.merged({}, tmp_path)
    (tmp_path / "kernels.json").write_text(json.dumps(kernels_figures() | {"quick": True}))
    with pytest.raises(ValueError, match=r"got \['kernels'\] of --quick runs"):
        tables.merged({}, tmp_path)


def test_merged_keeps_what_was_not_measured_again(tables, tmp_path):
    (tmp_path / "kernels.json").write_text(json.dumps(kernels_figures()))
    figures = tables.merged({"memory": {"quick": False}, "kernels": {}}, tmp_path)
    assert figures == {"kernels": kernels_figures(), "memory": {"quick": False}}


def test_a_page_without_a_block_is_refused(tables):
    with pytest.raises(ValueError, match="expected one block <!-- machine -->"):
        tables.render("nothing", {})


def test_crossings(tables):
    crossings = importlib.import_module("crossings")
    packed_forms = ("packed, float activations", "packed, int8 activations")
    forms = {"dense float32": (8.0, 8.0, 8.0)} | dict.fromkeys(packed_forms, (2.0, 4.0, 16.0))
    points = [
        {"x": x, "states": {"cold": {form: row(values[i]) for form, values in forms.items()}}}
        for i, x in enumerate((0.01, 0.1, 0.4))
    ]
    found = crossings.find(points, "cold", packed=packed_forms, dense=["dense float32"])
    assert [(c["packed"], c["dense"], c["faster"]) for c in found] == [
        (packed, "dense float32", "below") for packed in packed_forms
    ]
    assert [c["x"] for c in found] == pytest.approx([0.2] * 2)  # in the middle of 0.1 and 0.4, as 8 is of 4 and 16
    text = tables.crossings({"scaling": {"sweeps": {"density": {"crossings": {"cold": found}}}}})
    assert text.splitlines()[2] == ("| density, cold | packed, float activations | dense float32 | below 20.0 % |")


def test_tables_of_convolutions_and_choices(tables):
    times = {"packed_us": 1000.4, "packed_int8_us": 2000.0, "dense_us": 3000.0, "dense_int8_us": 1500.0}
    row = times | {"ratio": 3.0, "int8_ratio": 1.5, "int8_to_dense_int8": 0.75}
    layer = {"layer": "7x7 k1 s1 8x8", "count": 5}
    figures = {"convolutions": {"machine": MACHINE, "quick": False, "density": 0.1, "layers": [layer | row], **row}}
    cells = "| 1,000 | 2,000 | 3,000 | 1,500 | 3.00× | 1.50× | **0.75×** |"
    assert tables.convolutions(figures).splitlines()[2:] == [
        f"| 7x7 k1 s1 8x8 | 5 {cells}",
        f"| **all thirteen** | 13 {cells}",
    ]
    judged = [{"choice": choice, "times_the_best": worse} for choice, worse in (("packed", 1.0), ("dense", 1.25))]
    part = {"machine": MACHINE, "quick": False, "values": 16, "layers": {"int8": judged, "float32": judged[:1]}}
    wanted = [
        '| `activations="int8"` | 16 | 2 | 50.0% | 1.25× | dense 1, packed 1 |',
        '| `activations="float32"` | 16 | 1 | 100.0% | 1.00× | packed 1 |',
    ]
    assert tables.choices({"kernel_choices": part}).splitlines()[2:] == wanted
    both = {"kernel_choices": part, "kernel_choices_256": part | {"values": 256}}
    assert tables.choices(both).splitlines()[2:] == [*wanted, *(line.replace("| 16 |", "| 256 |") for line in wanted)]


def test_the_op_s_table_is_that_of_its_program(tables):
    op_report = importlib.import_module("op_report")
    printed = (
        "batch 1, one thread; the 1st percentiles of 5000 runs (other work on the machine disturbs these least)\n"
        "a few weights         8x8     float32  kernel    0.08 us  Compute    0.64 us  added  0.56 us   "
        "(median of pairs  0.61)\n"
        "AlexNet fc8        1000x4096  int8     kernel   60.18 us  Compute   62.68 us  added  2.50 us   "
        "(median of pairs -2.79)\n"
    )
    figures = {"op_overhead": {"layers": op_report.read(printed)}}
    assert tables.op_overhead(figures).splitlines()[2:] == [
        "| a few weights, 8x8, float32 activations | 0.08 | 0.64 | 0.56 | 0.61 |",
        "| AlexNet fc8, 1000x4096, int8 activations | 60.18 | 62.68 | 2.50 | -2.79 |",
    ]
    with pytest.raises(ValueError, match="expected the table of tf_op_bench, got 'nothing'"):
        op_report.read("nothing")
