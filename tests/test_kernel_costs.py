"""The model that decides between packed and dense kernels."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from one_operator import fully_connected, model_of, sparse_weights  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import kernel_costs, kernel_terms, packing
from keras_prune_export.kernel_costs import Work
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations import constants
from keras_prune_export.transformations.computing import work_of

PACKED_INT8 = {"kept": 0.5, "cell": 0.125, "row": 1, "col": 1}
DENSE_INT8 = {"cell": 0.25, "beyond": 0.25, "row": 1, "col": 1}


def named(form, of_ways, default):
    """Coefficients of each way of computing: the default's, and what it has of its own."""
    return {f"{form}_{way}_{key}": (default | own)[key] for way, own in of_ways.items() for key in default | own}


COSTS = {
    "tile": 8,
    "tile_from": 4,
    "int8_tile_from": 16,
    "int8_thin_tile_from": 8,
    "few_kept": 1,
    "few_beyond": 2,
    "few_row": 10,
    **{"few_long_kept": 1.5, "few_long_beyond": 3, "few_long_row": 11},
    "tile_kept": 0.5,
    "tile_entry": 5,
    "tile_col": 1,
    "tile_row": 3,
    "dense_one": 0.375,
    "dense_one_beyond": 2,
    "dense_block": 0.5,
    "dense_block_beyond": 4,
    **named(
        "packed_int8",
        {
            "one": {},
            "few": {"row": 2},
            "few_patch": {"col": 6},
            "tile": {"kept": 0.25, "cell": 0, "entry": 2},
            "patch": {"col": 4, "entry": 3},
        },
        PACKED_INT8,
    ),
    **named("dense_int8", {"one": {}, "many": {"cell": 0.5, "row": 0.5, "beyond": 8}, "conv": {"col": 3}}, DENSE_INT8),
}
BEYOND, BEYOND_INT8 = 2**18, 2**20


@pytest.mark.parametrize(
    ("work", "packed", "dense"),
    [
        # 100 kept weights and 20 rows; 32 rows (whole blocks of 16) of 30 columns, read once
        (Work(20, 30, 100), 100 + 200, 960 * 0.375),
        # codes of more than 32 values are longer
        (Work(20, 30, 100, codebook=32), 100 + 200, 960 * 0.375),
        (Work(20, 30, 100, codebook=33), 150 + 220, 960 * 0.375),
        (Work(16, 30, 100, 9, codebook=256), 16 * (50 + 30 + 48) + 500, 480 * 2 * 0.5),
        # 9 pixels are 16 of packed tiles, one of 32, and 2 blocks of 6 of the dense kernel
        (Work(16, 30, 100, 9), 16 * (50 + 30 + 48) + 500, 480 * 2 * 0.5),
        (Work(16, 30, 100, 33), 40 * (50 + 30 + 48) + 2 * 500, 480 * 6 * 0.5),
        # fewer weights than columns: row by row
        (Work(16, 30, 30, 9), 16 * (15 + 30 + 48) + 150, 480 * 2 * 0.5),
        (Work(16, 30, 29, 9), 9 * (29 + 160), 480 * 2 * 0.5),
        # what no cache holds
        (Work(2048, 256, BEYOND + 5, 2), 2 * (BEYOND + 5 + 10 + 20480), 524288 * 0.5 + 4 * BEYOND),
        (Work(2048, 256, 0), 20480, 524288 * 0.375 + 2 * BEYOND),
    ],
)
def test_golden(work, packed, dense):
    assert kernel_costs.nanoseconds(work, "packed", COSTS) == pytest.approx(packed)
    assert kernel_costs.nanoseconds(work, "dense", COSTS) == pytest.approx(dense)


@pytest.mark.parametrize(
    ("work", "packed", "dense"),
    [
        (Work(20, 30, 100), 50 + 75 + 20 + 30, 150 + 20 + 30),
        (Work(20, 30, 100, 4), 4 * (50 + 75 + 40 + 30), 300 + 4 * (10 + 30)),
        (
            Work(1025, 1024, 0, 1),
            (BEYOND_INT8 + 1024) / 8 + 2049,
            (BEYOND_INT8 + 1024) / 4 + 256 + 2049,
        ),
        (Work(1025, 1024, 0, 2), (BEYOND_INT8 + 1024) / 4 + 2 * 3074, (BEYOND_INT8 + 1024) / 2 + 8192 + 2 * 1536.5),
        # tiles from 16 pixels on: 17 are 24 of them, and 5 blocks of 4 of the dense kernel
        (Work(20, 30, 100, 15), 15 * (50 + 75 + 40 + 30), 4 * 300 + 15 * (10 + 30)),
        (Work(20, 30, 100, 17), 24 * (25 + 20 + 30) + 200, 5 * 300 + 17 * (10 + 30)),
        # thin ones, of which a sixteenth is kept, from 8 on
        (Work(20, 30, 37, 8), 8 * (9.25 + 20 + 30) + 74, 2 * 300 + 8 * (10 + 30)),
        (Work(20, 30, 37, 7), 7 * (18.5 + 75 + 40 + 30), 2 * 300 + 7 * (10 + 30)),
        (Work(20, 30, 38, 8), 8 * (19 + 75 + 40 + 30), 2 * 300 + 8 * (10 + 30)),
        # row by row: fewer weights than columns, sums that float32 does not hold
        (Work(20, 30, 29, 17), 17 * (14.5 + 75 + 40 + 30), 5 * 300 + 17 * (10 + 30)),
        (Work(20, 30, 100, 17, exact=False), 17 * (50 + 75 + 40 + 30), 5 * 300 + 17 * (10 + 30)),
        # convolutions of 16 pixels: 1x1 with stride 1, whose patches are the images' pixels; 3x3 on 10 channels
        (Work(20, 30, 100, 16, 480), 16 * (25 + 20 + 30) + 200, 4 * 150 + 16 * 20 + 3 * 480),
        (Work(20, 90, 100, 16, 160), 16 * (50 + 225 + 20 + 360) + 300, 4 * 450 + 16 * 20 + 3 * 160),
        (Work(20, 30, 100, 16, 480, exact=False), 16 * (50 + 75 + 40 + 30), 4 * 150 + 16 * 20 + 3 * 480),
        (Work(20, 90, 100, 16, 160, exact=False), 16 * (50 + 225 + 20 + 540), 4 * 450 + 16 * 20 + 3 * 160),
        (Work(20, 30, 100, 4, 120), 4 * (50 + 75 + 40 + 30), 150 + 4 * 20 + 3 * 120),
        (Work(20, 30, 100, 4, 480), 4 * (50 + 75 + 20 + 180), 150 + 4 * 20 + 3 * 480),
    ],
)
def test_golden_int8(work, packed, dense):
    assert kernel_costs.nanoseconds(work, "packed_int8", COSTS) == pytest.approx(packed)
    assert kernel_costs.nanoseconds(work, "dense_int8", COSTS) == pytest.approx(dense)


def test_each_kind_of_activations_compares_its_own_forms(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS})
    work = Work(16, 30, 400)  # 400 + 160 ns against 180; 200 + 60 + 46 against 120 + 46
    assert kernel_costs.speedup([work]) == pytest.approx(560 / 180)
    assert kernel_costs.speedup([work], "int8") == pytest.approx(306 / 166)
    assert not kernel_costs.packed_pays([work])
    assert not kernel_costs.packed_pays([work], "int8")
    fewer = Work(16, 30, 300)  # 460 against 180; 256 against 166, 90 ns more
    assert not kernel_costs.packed_pays([fewer])
    assert kernel_costs.packed_pays([fewer], "int8")


CONVOLUTION = Work(16, 30, 400, 16, 480)
SLOW_DENSE = {"dense_block": 9, "dense_int8_conv_cell": 9}


def test_a_convolution_with_int8_activations_can_be_float32(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS})
    connected, few, many = Work(16, 30, 400, 16), CONVOLUTION, Work(16, 30, 400, 16, 100)
    assert kernel_costs.alternatives([connected], "int8") == ("packed_int8", "dense_int8")
    assert kernel_costs.alternatives([few, connected], "int8") == ("packed_int8", "dense_int8")
    assert kernel_costs.alternatives([few], "int8") == ("packed_int8", "packed", "dense_int8", "dense")
    assert kernel_costs.alternatives([few]) == kernel_costs.alternatives([connected]) == ("packed", "dense")
    assert kernel_costs.dense_form([connected], "int8") == "dense_int8"
    assert kernel_costs.dense_form([few]) == "dense"
    # dense float32: 3 blocks of 6, 720 ns; int8: 4 blocks of 4, 480 and 256 ns, and 3 ns for each value of the images
    assert kernel_costs.dense_form([few], "int8") == "dense"
    assert kernel_costs.speedup([few], "int8") == pytest.approx((16 * (100 + 16 + 30) + 800) / 720)
    cheap = COSTS | {"dense_int8_conv_row": 0.5}
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": cheap})
    assert kernel_costs.dense_form([many], "int8") == "dense"  # 908 ns
    assert kernel_costs.dense_form([Work(16, 30, 400, 16, 30)], "int8") == "dense_int8"  # 698 ns
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": cheap, "two": cheap | {"dense_block": 0.25}})
    assert kernel_costs.dense_form([Work(16, 30, 400, 16, 30)], "int8") == "dense"  # the mean


@pytest.mark.parametrize(
    ("changes", "form", "packed", "dense"),
    [
        # 16 * (100 + 16 + 30) + 800 = 3,136 ns against 16 * (200 + 30 + 48) + 2,000 = 6,448; dense 720 and 2,176
        ({}, "dense", "packed_int8", "dense"),
        ({"dense_block": 2}, "dense_int8", "packed_int8", "dense_int8"),
        (SLOW_DENSE, "packed_int8", "packed_int8", "dense"),
        (SLOW_DENSE | {"tile_entry": 0, "tile_kept": 0}, "packed", "packed", "dense"),
        # 16 * (130 + 16 * 14) + 800 = 6,464 ns; 6,438.4
        (SLOW_DENSE | {"packed_int8_tile_row": 14}, "packed", "packed", "dense"),
        (SLOW_DENSE | {"packed_int8_tile_row": 13.9}, "packed_int8", "packed_int8", "dense"),
    ],
)
def test_of_four_forms_the_fastest(monkeypatch, changes, form, *, packed, dense):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS | changes})
    assert kernel_costs.packed_form([CONVOLUTION], "int8") == packed
    assert kernel_costs.dense_form([CONVOLUTION], "int8") == dense
    assert kernel_costs.choice([CONVOLUTION], "int8") == form
    assert kernel_costs.choice([CONVOLUTION]) in ("packed", "dense")


def test_of_equally_fast_forms_the_one_that_was_asked_for(monkeypatch):
    zeros = dict.fromkeys(kernel_terms.names(), 0) | {key: COSTS[key] for key in kernel_terms.PIXELS}
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": zeros})
    assert kernel_costs.choice([CONVOLUTION], "int8") == "packed_int8"
    assert kernel_costs.dense_form([CONVOLUTION], "int8") == "dense_int8"


def test_another_dense_form_than_the_fastest(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS})
    work = Work(16, 30, 400)  # 200 + 60 + 46 ns in int8; dense 120 + 46 in int8, 180 in float32
    assert not kernel_costs.packed_pays([work], "int8", dense="dense_int8")
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS | {"dense_one": 0.7}})  # 336
    assert kernel_costs.packed_pays([work], "int8", dense="dense")
    assert not kernel_costs.packed_pays([work], "int8")


def test_the_mean_over_instruction_sets(monkeypatch):
    slow = COSTS | {"few_kept": 4, "few_row": 40}  # 1,200 ns for 300
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS, "two": slow})
    work = Work(20, 30, 100)  # dense: 360 ns
    assert kernel_costs.speedup([work]) == pytest.approx((300 / 360 * 1200 / 360) ** 0.5)
    assert not kernel_costs.packed_pays([work])
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS})
    assert kernel_costs.packed_pays([work])
    many = Work(20, 30, 100, 64)  # the two operators together: 300 + 64 * 140 + 2 * 500 against 360 + 11 * 480
    assert kernel_costs.speedup([work, many]) == pytest.approx((300 + 64 * 140 + 1000) / (360 + 11 * 480))


def test_packed_weights_stay_where_dense_kernels_are_hardly_faster(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS})
    assert kernel_costs.packed_pays([Work(16, 30, 0, 1)])  # 160 ns against 180
    assert kernel_costs.packed_pays([Work(16, 30, 119, 1)])  # 279 ns: 99 ns more
    assert not kernel_costs.packed_pays([Work(16, 30, 121, 1)])
    assert kernel_costs.packed_pays([Work(16, 300, 1839, 1)])  # 1,999 ns against 1,800
    assert not kernel_costs.packed_pays([Work(16, 300, 1841, 1)])  # more than 10 / 9 of them


@pytest.mark.parametrize("isa", kernel_costs.table())
def test_the_table_has_every_coefficient(isa):
    assert set(COSTS) | {"machine"} == set(kernel_costs.table()[isa])
    assert set(COSTS) - set(kernel_terms.PIXELS) == kernel_terms.names()
    assert isa in kernel_costs.ISAS


def kernel_source(name):
    return (pathlib.Path(__file__).parents[1] / "custom_ops" / "kernels" / name).read_text()


def test_instruction_sets_are_the_delegates():
    source = kernel_source("dispatch.cc")
    # Other kernels from another batch on need other costs: benchmarks/kernel_costs.py.
    found = [int(re.search(rf"kFewestOf{name} = (\d+);", source)[1]) for name in ("Tile", "Int8Tile", "ThinTile")]
    costs = kernel_costs.table()["avx2"]
    assert [costs[name] for name in ("tile_from", "int8_tile_from", "int8_thin_tile_from")] == found
    assert tuple(re.findall(r'^    {Isa::k\w+, "(\w+)"', source, re.MULTILINE)) == kernel_costs.ISAS


def test_tiles_are_the_delegates():
    found = [int(re.search(rf"kTile{name} = (\d+);", kernel_source("tile.h"))[1]) for name in ("Step", "Width")]
    assert found == [kernel_costs.table()["avx2"]["tile"], kernel_terms.TILE_WIDTH]
    assert int(re.search(r"kThin = (\d+);", kernel_source("s8_fc_tile__avx2.cc"))[1]) == kernel_terms.THIN
    assert "kMostExact = (uint64_t{1} << 24) / 127;" in kernel_source("s8_fc_tile.h")


def test_large_codebooks_have_their_own_costs(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS | {"few_long_kept": 100}})
    for bits, form in ((4, "compute"), (5, "compute"), (6, "expand")):
        assert packing.pack(fully_connected(), Schemes(Codebook(bits)))[1][0].form == form


@pytest.mark.parametrize("pixels", [1, 2, 16, 784])
def test_of_a_large_layer_few_weights_pay_and_many_do_not(pixels):
    assert kernel_costs.packed_pays([Work(512, 512, 512 * 512 // 50, pixels)])
    assert not kernel_costs.packed_pays([Work(512, 512, 512 * 512 * 9 // 10, pixels)])


def test_the_work_of_operators():
    fields = {"strideH": 2, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0}
    model = model_of(
        "CONV_2D",
        ("Conv2DOptions", fields),
        [(2, 6, 5, 16), sparse_weights(24, 3, 3, 16), np.zeros(24, np.float32)],
        output=(2, 3, 5, 24),
    )
    reader = next(c for c in constants.find(model) if c.shape == (24, 3, 3, 16)).views[-1].readers[0]
    assert work_of(model, reader, 70) == Work(24, 144, 70, 30, 2 * 6 * 5 * 16)
    model = model_of("FULLY_CONNECTED", None, [(2, 3, 40), sparse_weights(24, 40)], output=(6, 24))
    reader = next(c for c in constants.find(model) if c.shape == (24, 40)).views[-1].readers[0]
    assert work_of(model, reader, 7) == Work(24, 40, 7, 6)


def test_what_does_not_pay_is_expanded_and_says_why(monkeypatch):
    monkeypatch.setattr(kernel_costs, "table", lambda: {"one": COSTS | {"few_kept": 100}})
    _, (layer,) = packing.pack(fully_connected(), Schemes(Codebook()))
    assert layer.form == "expand"
    kept = np.count_nonzero(sparse_weights(24, 400))
    times = (100 * kept + 240) / (32 * 400 * 0.375)
    reason = f"expanded at load: {kept / 9600:.1%} of the weights are kept, dense kernels are {times:.1f} times as fast"
    assert layer.reason == reason
