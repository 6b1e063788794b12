"""What a layer's time is made of, on packed weights and dense: counts, each of a measured number of nanoseconds.

A layer multiplies patches, (pixels, cols), with weights, (rows, cols). The counts of each way of computing::

    packed, a few pixels:   kept * pixels, kept weights beyond the caches * pixels, rows * pixels; codebooks of up to 32
                            values and larger ones by themselves
    packed, tiles:          kept * pixels, kept * tiles, cols * pixels (their transposition), rows * pixels
    dense, one pixel:       rows * cols, weights beyond the caches
    dense:                  rows * cols for each block of pixels, weights beyond the caches
    packed_int8, one pixel: kept, weights (windows of columns), rows, cols
    packed_int8, few:       the same for each of the pixels; a layer whose sums float32 cannot hold, for any number
    packed_int8, few_patch: the same of patches that have to be put together: any convolution but 1x1 with stride 1
    packed_int8, tile:      the same as few, and kept * tiles; thin layers (a sixteenth is kept) from fewer pixels on
    packed_int8, patch:     the same as tile of patches that have to be put together
    dense_int8:             weights for each block of pixels, weights beyond the caches, rows * pixels, cols * pixels
    dense_int8, CONV_2D:    the same, and in place of cols * pixels the values of the images, which are quantized once

Tiles are whole steps of pixels. A layer with fewer kept weights than columns is never computed on tiles.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

# Kind of activations -> what a layer can be that computes so: on packed weights, or dense.
FORMS = {"float32": ("packed", "dense"), "int8": ("packed_int8", "dense_int8")}
# Numbers of an entry that are no times: what a tile's pixels are rounded up to, and from how many on tiles are used.
PIXELS = ("tile", "tile_from", "int8_tile_from", "int8_thin_tile_from")
# Weights beyond the caches have a term of their own: from 2**18 on, a layout (2 to 3 bytes a weight) or a quarter of it
# dense leaves no room for anything else in the second-level cache of today's CPUs, 1/2 to 2 MB.
_CACHED_WEIGHTS, _CACHED_INT8 = 2**18, 2**20
_SHORT_CODES = 32  # values: codes of more take a byte in the layout for a few pixels (custom_ops/kernels/sell16.h)
TILE_WIDTH = 32  # pixels for which the packed kernels read an entry once (custom_ops/kernels/tile.h)
THIN = 16  # weights of which a thin layer keeps one (custom_ops/kernels/s8_fc_tile__avx2.cc)
MOST_EXACT = 2**24 // 127  # of a row's |w|, in steps: float32 holds its sums (custom_ops/kernels/s8_fc_tile.h)
_DENSE_ROWS, _DENSE_PIXELS = 16, 6  # of XNNPACK's blocks of results with AVX2; those of others are alike
_INT8_PIXELS = 4  # of the runtime's int8 kernel: 2 and 3 batch rows take as long as 4 (AVX2)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one layer computes.

    Attributes:
        rows: outputs, or output channels.
        cols: inputs, or values of a patch.
        kept: weights that are not zero.
        pixels: patches: batch rows, or pixels of the output.
        inputs: values of a convolution's images; 0: a fully connected layer.
        codebook: values that the weights share, zero included.
        exact: float32 holds the sums of int8 products: no row's ``|w|`` add up to more than `MOST_EXACT` steps.
    """

    rows: int
    cols: int
    kept: int
    pixels: int = 1
    inputs: int = 0
    codebook: int = 16
    exact: bool = True


def terms(work: Work, form: str, costs: Mapping[str, Any]) -> dict[str, float]:
    """The counts of a form.

    Args:
        work: the layer.
        form: one that `FORMS` names.
        costs: what `PIXELS` names.

    Returns:
        Coefficient's name -> how many of it.
    """
    if form == "packed_int8":
        return _packed_int8_terms(work, costs)
    if form == "dense_int8":
        return _dense_int8_terms(work)
    if form == "dense":
        return _dense_terms(work)
    if work.pixels < costs["tile_from"] or not _has_tiles(work):
        beyond = max(0, work.kept - _CACHED_WEIGHTS) * work.pixels
        name = "few" if work.codebook <= _SHORT_CODES else "few_long"
        counts = {"kept": work.kept * work.pixels, "beyond": beyond, "row": work.rows * work.pixels}
        return {f"{name}_{key}": count for key, count in counts.items()}
    pixels = _whole(work.pixels, int(costs["tile"]))
    counts = {"kept": work.kept * pixels, "entry": _entries(work), "col": work.cols * pixels, "row": work.rows * pixels}
    return {f"tile_{key}": count for key, count in counts.items()}


def _has_tiles(work: Work) -> bool:
    """Tiles of x do not cost more than they save (custom_ops/kernels/tile.cc)."""
    return work.kept >= work.cols


def _entries(work: Work) -> int:
    """How many entries the kernels on tiles read."""
    return work.kept * _whole(work.pixels, TILE_WIDTH) // TILE_WIDTH


def _dense_terms(work: Work) -> dict[str, float]:
    rows = _whole(work.rows, _DENSE_ROWS)
    name = "dense_one" if work.pixels == 1 else "dense_block"
    blocks = _whole(work.pixels, _DENSE_PIXELS) // _DENSE_PIXELS
    beyond = max(0, rows * work.cols - _CACHED_WEIGHTS)
    return {name: rows * work.cols * blocks, f"{name}_beyond": beyond}


def _packed_int8_terms(work: Work, costs: Mapping[str, Any]) -> dict[str, float]:
    """Every way has the same counts; which of them matter, the measurement says."""
    is_tiled = _is_tiled_int8(work, costs)
    pixels = _whole(work.pixels, int(costs["tile"])) if is_tiled else work.pixels
    each = {"kept": work.kept, "cell": work.rows * work.cols, "row": work.rows, "col": work.cols}
    counts = {key: count * pixels for key, count in each.items()}
    if is_tiled:
        counts["entry"] = _entries(work)
    has_patches = work.inputs not in (0, work.cols * work.pixels)
    name = "one" if work.pixels == 1 else ("few", "few_patch", "tile", "patch")[2 * is_tiled + has_patches]
    return {f"packed_int8_{name}_{key}": count for key, count in counts.items()}


def _is_tiled_int8(work: Work, costs: Mapping[str, Any]) -> bool:
    is_thin = work.kept * THIN <= work.rows * work.cols
    fewest = costs["int8_thin_tile_from" if is_thin else "int8_tile_from"]
    return work.pixels >= fewest and work.exact and _has_tiles(work)


def _dense_int8_terms(work: Work) -> dict[str, float]:
    name = "conv" if work.inputs else "one" if work.pixels == 1 else "many"
    cells = work.rows * work.cols
    counts = {
        "cell": cells * _whole(work.pixels, _INT8_PIXELS) // _INT8_PIXELS,
        # int8 weights are a quarter of float32 ones: as many more fit into the caches.
        "beyond": max(0, cells - _CACHED_INT8),
        "row": work.rows * work.pixels,
        "col": work.inputs or work.cols * work.pixels,
    }
    return {f"dense_int8_{name}_{key}": count for key, count in counts.items()}


def _whole(count: int, block: int) -> int:
    """Rounded up to whole blocks."""
    return -(-count // block) * block


@functools.cache
def names() -> frozenset[str]:
    """All coefficients of an instruction set."""
    few, tiles = dict.fromkeys(PIXELS, 9), dict.fromkeys(PIXELS, 2)
    works = [Work(1, 1, 1), Work(1, 1, 1, codebook=256), Work(1, 1, 1, 2), Work(1, 1, 1, 2, 9)]
    forms = [form for pair in FORMS.values() for form in pair]
    return frozenset(
        name for work in works for form in forms for pixels in (few, tiles) for name in terms(work, form, pixels)
    )
