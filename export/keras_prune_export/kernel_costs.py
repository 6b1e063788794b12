"""How long a layer takes on packed weights and dense: a model whose coefficients were measured (kernel_costs.json).

A layer's time is a sum of terms (`kernel_terms`), each a count times a measured number of nanoseconds. The dense
kernels are those of the runtime: float32 in XNNPACK, and int8 weights whose input is quantized while it runs ("dynamic
range"). What a call costs by itself is in no sum: it hangs on the layers around. ``benchmarks/kernel_costs.py``
measures a machine and writes a file; ``benchmarks/kernel_choices.py`` compares choices with what is fastest.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_prune_export.kernel_terms import FORMS, PIXELS, Work, names, terms

PATH = pathlib.Path(__file__).with_suffix(".json")
PACKED = ("packed", "packed_int8")  # the forms on packed weights; all others are dense
# As the delegate calls them (custom_ops/kernels/dispatch.cc).
ISAS = ("reference", "scalar", "avx2", "avx512", "avx512vbmi", "neon", "neondot")
# The packed form needs less memory, so that it stays where dense kernels are hardly faster: by a tenth of the time, or
# by 0.1 us, which does not show beside the 0.5 to 4 us that any call of an operator costs.
_WORTH, _WORTH_NS = 0.9, 100.0
_WRITE_ONE = "write one on the device with: python benchmarks/kernel_costs.py --json costs.json"
_MOST_NS = 1e9  # a coefficient of a second is none; sums of larger ones would not be finite


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


def _read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The entries of a file, checked."""
    got = os.fspath(path)
    if pathlib.Path(path).is_dir():
        raise ValueError(f"device_costs: expected a file of costs, got the folder {got!r}; {_WRITE_ONE}")
    try:
        isas = json.loads(pathlib.Path(path).read_bytes())["isas"]
        missing = next((name for costs in isas.values() for name in _missing(costs)), "")
        good = bool(isas) and (missing or all(_is_complete(costs) for costs in isas.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"device_costs: expected a file of costs, got {got!r}; {_WRITE_ONE}")
    if missing:
        raise ValueError(
            f"device_costs: expected all costs that this version knows, got {got!r} without {missing!r}: another "
            f"version of keras_prune wrote it; {_WRITE_ONE}"
        )
    unknown = [name for name in isas if name not in ISAS]
    if unknown:
        known = ", ".join(ISAS)
        raise ValueError(
            f"device_costs: expected instruction sets of {known}, got {unknown[0]!r} in {got!r}; {_WRITE_ONE}"
        )
    return dict(isas)


def _missing(costs: Mapping[str, Any]) -> list[str]:
    """What an entry has not, if it is one: some of the coefficients are there."""
    found = set(costs)
    return [] if names().isdisjoint(found) else sorted({*names(), *PIXELS} - found)


def _is_complete(costs: Mapping[str, Any]) -> bool:
    """Every number is there, not negative, and small enough to be nanoseconds."""
    values = [costs[name] for name in names()]
    pixels = [costs[name] for name in PIXELS]
    numbers = all(type(value) in (int, float) and 0 <= value <= _MOST_NS for value in values)
    return numbers and all(type(value) is int and 1 <= value <= 2**16 for value in pixels)


def alternatives(works: Iterable[Work], activations: str = "float32") -> tuple[str, ...]:
    """What layers that share their weights can be: forms on packed weights first, the asked-for arithmetic first.

    Args:
        works: one for each operator that reads the weights.
        activations: "float32", or "int8": convolutions can also be float32 then, which on CPUs whose kernels gain
            nothing by bytes is faster.
    """
    packed, dense = FORMS[activations]
    if activations == "float32" or not all(work.inputs for work in works):
        return packed, dense
    return packed, "packed", dense, "dense"


def packed_form(works: Iterable[Work], activations: str = "float32") -> str:
    """The fastest of the `alternatives` on packed weights."""
    works = list(works)
    return _fastest(works, [form for form in alternatives(works, activations) if form in PACKED])


def dense_form(works: Iterable[Work], activations: str = "float32") -> str:
    """The fastest of the dense `alternatives`."""
    works = list(works)
    return _fastest(works, [form for form in alternatives(works, activations) if form not in PACKED])


def _fastest(works: list[Work], forms: list[str]) -> str:
    """The first of equally fast ones."""
    return min(forms, key=lambda form: ratio(works, form, forms[0]))


def choice(works: Iterable[Work], activations: str = "float32") -> str:
    """What the exporter takes of the `alternatives`."""
    works = list(works)
    chosen = packed_form if packed_pays(works, activations) else dense_form
    return chosen(works, activations)


def speedup(works: Iterable[Work], activations: str = "float32") -> float:
    """How many times as fast the dense kernels are as those on packed weights, for layers that share their weights.

    Args:
        works: one for each operator that reads the weights.
        activations: "float32" or "int8": of each kind of kernels, the fastest of the `alternatives`.
    """
    works = list(works)
    return ratio(works, packed_form(works, activations), dense_form(works, activations))


def ratio(works: Iterable[Work], form: str, other: str) -> float:
    """The time of one form in that of another.

    A file runs on any machine: the geometric mean over the instruction sets that were measured.

    Args:
        works: one for each operator that reads the weights.
        form: one that `FORMS` names.
        other: likewise.
    """
    works = list(works)
    ratios = [_sum(works, form, costs) / _sum(works, other, costs) for costs in table().values()]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _sum(works: Iterable[Work], form: str, costs: Mapping[str, Any]) -> float:
    return sum(nanoseconds(work, form, costs) for work in works)


def packed_pays(works: Iterable[Work], activations: str = "float32", *, dense: str | None = None) -> bool:
    """Whether layers that share their weights are better computed on packed ones.

    Args:
        works: one for each operator that reads the weights.
        activations: as in `speedup`.
        dense: the dense form; None: `dense_form`.
    """
    works = list(works)
    packed, dense = packed_form(works, activations), dense or dense_form(works, activations)
    saved = max(_sum(works, packed, costs) - _sum(works, dense, costs) for costs in table().values())
    return ratio(works, packed, dense) * _WORTH <= 1 or saved <= _WORTH_NS
