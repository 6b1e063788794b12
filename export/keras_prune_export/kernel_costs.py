"""How long a layer takes on packed weights and dense: a model whose coefficients were measured (kernel_costs.json).

A layer multiplies patches, (pixels, cols), with weights, (rows, cols). Its time is a sum of terms, each a count times a
measured number of nanoseconds::

    packed, a few pixels:   kept * pixels, kept weights beyond the caches * pixels, rows * pixels
    packed, tiles:          kept * pixels, cols * pixels (their transposition), rows * pixels
    dense, one pixel:       rows * cols, weights beyond the caches
    dense:                  rows * cols for each block of pixels, weights beyond the caches

The dense kernels are those of float32 in XNNPACK. What a call costs by itself is in neither sum: it hangs on the
layers around. ``benchmarks/kernel_costs.py`` measures a machine and writes the file anew;
``benchmarks/kernel_choices.py`` compares choices with what is fastest.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

PATH = pathlib.Path(__file__).with_suffix(".json")
FORMS = ("packed", "dense")
# Weights beyond the caches have a term of their own: from 2**18 on, a layout (2 to 3 bytes a weight) or a quarter of it
# dense leaves no room for anything else in the second-level cache of today's CPUs, 1/2 to 2 MB.
_CACHED_WEIGHTS = 2**18
_DENSE_ROWS, _DENSE_PIXELS = 16, 6  # of XNNPACK's blocks of results with AVX2; those of others are alike
# The packed form needs less memory, so that it stays where dense kernels are hardly faster: by a tenth of the time, or
# by 0.1 us, which does not show beside the 0.5 to 4 us that any call of an operator costs.
_WORTH, _WORTH_NS = 0.9, 100.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What one layer computes.

    Attributes:
        rows: outputs, or output channels.
        cols: inputs, or values of a patch.
        kept: weights that are not zero.
        pixels: patches: batch rows, or pixels of the output.
    """

    rows: int
    cols: int
    kept: int
    pixels: int = 1


def terms(work: Work, form: str, costs: Mapping[str, Any]) -> dict[str, float]:
    """The counts of a form.

    Args:
        work: the layer.
        form: one of `FORMS`.
        costs: "tile_from": pixels from which on the packed kernels compute tiles, "tile": what these are rounded up to.

    Returns:
        Coefficient's name -> how many of it.
    """
    if form == "dense":
        rows = _whole(work.rows, _DENSE_ROWS)
        name = "dense_one" if work.pixels == 1 else "dense_block"
        blocks = _whole(work.pixels, _DENSE_PIXELS) // _DENSE_PIXELS
        beyond = max(0, rows * work.cols - _CACHED_WEIGHTS)
        return {name: rows * work.cols * blocks, f"{name}_beyond": beyond}
    if work.pixels < costs["tile_from"]:
        beyond = max(0, work.kept - _CACHED_WEIGHTS) * work.pixels
        return {"few_kept": work.kept * work.pixels, "few_beyond": beyond, "few_row": work.rows * work.pixels}
    pixels = _whole(work.pixels, int(costs["tile"]))
    return {"tile_kept": work.kept * pixels, "tile_col": work.cols * pixels, "tile_row": work.rows * pixels}


def _whole(count: int, block: int) -> int:
    """Rounded up to whole blocks."""
    return -(-count // block) * block


def nanoseconds(work: Work, form: str, costs: Mapping[str, Any]) -> float:
    """What the model says of one form.

    Args:
        work: the layer.
        form: one of `FORMS`.
        costs: of an instruction set: an entry of `table`.
    """
    return sum(count * float(costs[name]) for name, count in terms(work, form, costs).items()) + 1e-9


@functools.cache
def table() -> dict[str, dict[str, Any]]:
    """Instruction set, as the delegate calls it -> coefficients in nanoseconds; "tile" and "tile_from" in pixels."""
    return dict(json.loads(PATH.read_text())["isas"])


def speedup(works: Iterable[Work]) -> float:
    """How many times as fast the dense kernels are as those on packed weights, for layers that share their weights.

    A file runs on any machine: the geometric mean over the instruction sets that were measured.
    """
    works = list(works)
    ratios = [_sum(works, "packed", costs) / _sum(works, "dense", costs) for costs in table().values()]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _sum(works: Iterable[Work], form: str, costs: Mapping[str, Any]) -> float:
    return sum(nanoseconds(work, form, costs) for work in works)


def packed_pays(works: Iterable[Work]) -> bool:
    """Whether layers that share their weights are better computed on packed ones.

    Args:
        works: one for each operator that reads the weights.
    """
    works = list(works)
    saved = max(_sum(works, "packed", costs) - _sum(works, "dense", costs) for costs in table().values())
    return speedup(works) * _WORTH <= 1 or saved <= _WORTH_NS
