"""How long a layer takes on packed weights and dense: a model whose coefficients were measured (kernel_costs.json).

A layer multiplies patches, (pixels, cols), with weights, (rows, cols). Its time is a sum of terms, each a count times a
measured number of nanoseconds::

    packed, a few pixels:   kept * pixels, kept weights beyond the caches * pixels, rows * pixels; codebooks of up to 32
                            values and larger ones by themselves
    packed, tiles:          kept * pixels, kept * tiles, cols * pixels (their transposition), rows * pixels
    dense, one pixel:       rows * cols, weights beyond the caches
    dense:                  rows * cols for each block of pixels, weights beyond the caches
    packed_int8:            kept * pixels, weights * pixels (windows of columns), rows * pixels, cols * pixels
    packed_int8, tiles:     the same, and kept * tiles
    dense_int8:             weights for each block of pixels, weights beyond the caches, rows * pixels, cols * pixels
    dense_int8, CONV_2D:    the same, and in place of cols * pixels the values of the images, which are quantized once

The dense kernels are those of the runtime: float32 in XNNPACK, and int8 weights whose input is quantized while it runs
("dynamic range"). Each way of computing has coefficients of its own: packed_int8 for one pixel, for a few, for tiles,
and for patches that have to be put together (any convolution but 1x1 with stride 1); dense_int8 for one pixel, for
several, and for convolutions. What a call costs by itself is in no sum: it hangs on the layers around.
``benchmarks/kernel_costs.py`` measures a machine and writes a file; ``benchmarks/kernel_choices.py`` compares choices
with what is fastest.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PATH = pathlib.Path(__file__).with_suffix(".json")
# Kind of activations -> what a layer can be: on packed weights, or dense.
FORMS = {"float32": ("packed", "dense"), "int8": ("packed_int8", "dense_int8")}
# As the delegate calls them (custom_ops/kernels/dispatch.cc).
ISAS = ("reference", "scalar", "avx2", "avx512", "avx512vbmi", "neon", "neondot")
_PIXELS = ("tile", "tile_from", "int8_tile_from")  # numbers of an entry that are no times
# Weights beyond the caches have a term of their own: from 2**18 on, a layout (2 to 3 bytes a weight) or a quarter of it
# dense leaves no room for anything else in the second-level cache of today's CPUs, 1/2 to 2 MB.
_CACHED_WEIGHTS, _CACHED_INT8 = 2**18, 2**20
_SHORT_CODES = 32  # values: codes of more take a byte in the layout for a few pixels (custom_ops/kernels/sell16.h)
_TILE_WIDTH = 32  # pixels for which the packed kernels read an entry once (custom_ops/kernels/tile.h)
_DENSE_ROWS, _DENSE_PIXELS = 16, 6  # of XNNPACK's blocks of results with AVX2; those of others are alike
_INT8_PIXELS = 4  # of the runtime's int8 kernel: 2 and 3 batch rows take as long as 4 (AVX2)
# The packed form needs less memory, so that it stays where dense kernels are hardly faster: by a tenth of the time, or
# by 0.1 us, which does not show beside the 0.5 to 4 us that any call of an operator costs.
_WORTH, _WORTH_NS = 0.9, 100.0
_WRITE_ONE = "write one on the device with: python benchmarks/kernel_costs.py --json costs.json"
_MOST_NS = 1e9  # a coefficient of a second is none; sums of larger ones would not be finite


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
    """

    rows: int
    cols: int
    kept: int
    pixels: int = 1
    inputs: int = 0
    codebook: int = 16


def terms(work: Work, form: str, costs: Mapping[str, Any]) -> dict[str, float]:
    """The counts of a form.

    Args:
        work: the layer.
        form: one that `FORMS` names.
        costs: "tile_from" and "int8_tile_from": pixels from which on the packed kernels compute tiles, "tile": what
            these are rounded up to.

    Returns:
        Coefficient's name -> how many of it.
    """
    if form == "packed_int8":
        return _packed_int8_terms(work, costs)
    if form == "dense_int8":
        return _dense_int8_terms(work)
    if form == "dense":
        rows = _whole(work.rows, _DENSE_ROWS)
        name = "dense_one" if work.pixels == 1 else "dense_block"
        blocks = _whole(work.pixels, _DENSE_PIXELS) // _DENSE_PIXELS
        beyond = max(0, rows * work.cols - _CACHED_WEIGHTS)
        return {name: rows * work.cols * blocks, f"{name}_beyond": beyond}
    if work.pixels < costs["tile_from"]:
        beyond = max(0, work.kept - _CACHED_WEIGHTS) * work.pixels
        name = "few" if work.codebook <= _SHORT_CODES else "few_long"
        counts = {"kept": work.kept * work.pixels, "beyond": beyond, "row": work.rows * work.pixels}
        return {f"{name}_{key}": count for key, count in counts.items()}
    pixels = _whole(work.pixels, int(costs["tile"]))
    counts = {"kept": work.kept * pixels, "entry": _entries(work), "col": work.cols * pixels, "row": work.rows * pixels}
    return {f"tile_{key}": count for key, count in counts.items()}


def _entries(work: Work) -> int:
    """How many entries the kernels on tiles read."""
    return work.kept * _whole(work.pixels, _TILE_WIDTH) // _TILE_WIDTH


def _packed_int8_terms(work: Work, costs: Mapping[str, Any]) -> dict[str, float]:
    """Every way has the same counts; which of them matter, the measurement says."""
    name, pixels = "few", work.pixels
    if work.pixels == 1:
        name = "one"
    elif work.pixels >= costs["int8_tile_from"]:
        name = "tile" if work.inputs in (0, work.cols * work.pixels) else "patch"
        pixels = _whole(work.pixels, int(costs["tile"]))
    each = {"kept": work.kept, "cell": work.rows * work.cols, "row": work.rows, "col": work.cols}
    counts = {key: count * pixels for key, count in each.items()}
    if name in ("tile", "patch"):
        counts["entry"] = _entries(work)
    return {f"packed_int8_{name}_{key}": count for key, count in counts.items()}


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


def nanoseconds(work: Work, form: str, costs: Mapping[str, Any]) -> float:
    """What the model says of one form.

    Args:
        work: the layer.
        form: one that `FORMS` names.
        costs: of an instruction set: an entry of `table`.
    """
    return sum(count * float(costs[name]) for name, count in terms(work, form, costs).items()) + 1e-9


def table() -> dict[str, dict[str, Any]]:
    """Instruction set, as the delegate calls it -> coefficients in nanoseconds; "tile" and "..._from" in pixels.

    Those of `device_costs`, where that is active; else those of the package.
    """
    return _of_device.get() or _of_package()


@contextlib.contextmanager
def device_costs(path: str | os.PathLike[str]) -> Iterator[None]:
    """Exports in this block choose between packed and dense kernels by what was measured on your device.

    Args:
        path: the file that ``python benchmarks/kernel_costs.py --json path`` wrote there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not one of these files, but a folder or another one, or the delegate has no such kernels.

    Example:
        >>> with keras_prune.device_costs("raspberry_pi.json"):  # doctest: +SKIP
        ...     keras_prune.export_tflite(model, "model.tflite")
    """
    token = _of_device.set(_read(path))
    try:
        yield
    finally:
        _of_device.reset(token)


_of_device: contextvars.ContextVar[dict[str, dict[str, Any]] | None] = contextvars.ContextVar("costs", default=None)


@functools.cache
def _of_package() -> dict[str, dict[str, Any]]:
    return _read(PATH)


@functools.cache
def coefficients() -> frozenset[str]:
    """The names of all coefficients of an instruction set."""
    pixels = dict.fromkeys(_PIXELS, 4)
    works = [Work(1, 1, 1, 1), Work(1, 1, 1, 2), Work(1, 1, 1, 4), Work(1, 1, 1, 4, 9), Work(1, 1, 1, codebook=256)]
    forms = [form for pair in FORMS.values() for form in pair]
    return frozenset(name for work in works for form in forms for name in terms(work, form, pixels))


def _read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The entries of a file, checked."""
    got = os.fspath(path)
    if pathlib.Path(path).is_dir():
        raise ValueError(f"device_costs: expected a file of costs, got the folder {got!r}; {_WRITE_ONE}")
    try:
        isas = json.loads(pathlib.Path(path).read_bytes())["isas"]
        names = list(isas)
        good = bool(names) and all(_is_complete(costs) for costs in isas.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"device_costs: expected a file of costs, got {got!r}; {_WRITE_ONE}")
    unknown = [name for name in names if name not in ISAS]
    if unknown:
        known = ", ".join(ISAS)
        raise ValueError(
            f"device_costs: expected instruction sets of {known}, got {unknown[0]!r} in {got!r}; {_WRITE_ONE}"
        )
    return dict(isas)


def _is_complete(costs: Mapping[str, Any]) -> bool:
    """Every number is there, not negative, and small enough to be nanoseconds."""
    values = [costs[name] for name in coefficients()]
    pixels = [costs[name] for name in _PIXELS]
    numbers = all(type(value) in (int, float) and 0 <= value <= _MOST_NS for value in values)
    return numbers and all(type(value) is int and 1 <= value <= 2**16 for value in pixels)


def alternatives(works: Iterable[Work], activations: str = "float32") -> tuple[str, ...]:
    """What layers that share their weights can be: the packed form first.

    Args:
        works: one for each operator that reads the weights.
        activations: "float32", or "int8": convolutions can also stay dense float32 then, which on CPUs without
            instructions for bytes is the faster dense form of some.
    """
    convolve = all(work.inputs for work in works)
    return FORMS[activations] + (("dense",) if activations == "int8" and convolve else ())


def dense_form(works: Iterable[Work], activations: str = "float32") -> str:
    """The fastest of the dense `alternatives`."""
    works = list(works)
    _, first, *others = alternatives(works, activations)
    return min([first, *others], key=lambda form: _ratio(works, form, first))


def speedup(works: Iterable[Work], activations: str = "float32") -> float:
    """How many times as fast the dense kernels are as those on packed weights, for layers that share their weights.

    A file runs on any machine: the geometric mean over the instruction sets that were measured.

    Args:
        works: one for each operator that reads the weights.
        activations: "float32", or "int8": packed kernels multiply integers, dense ones are those of `dense_form`.
    """
    works = list(works)
    return _ratio(works, FORMS[activations][0], dense_form(works, activations))


def _ratio(works: list[Work], form: str, other: str) -> float:
    """Time of one form in that of another."""
    ratios = [_sum(works, form, costs) / _sum(works, other, costs) for costs in table().values()]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _sum(works: Iterable[Work], form: str, costs: Mapping[str, Any]) -> float:
    return sum(nanoseconds(work, form, costs) for work in works)


def packed_pays(works: Iterable[Work], activations: str = "float32") -> bool:
    """Whether layers that share their weights are better computed on packed ones.

    Args:
        works: one for each operator that reads the weights.
        activations: as in `speedup`.
    """
    works = list(works)
    packed, dense = FORMS[activations][0], dense_form(works, activations)
    saved = max(_sum(works, packed, costs) - _sum(works, dense, costs) for costs in table().values())
    return speedup(works, activations) * _WORTH <= 1 or saved <= _WORTH_NS
