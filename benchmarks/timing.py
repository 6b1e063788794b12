"""Times of several cases, taken in turn, so that what slows the machine slows all alike; and their table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune_export.files import write_atomic

Row = dict[str, float]

_BLOCK_SECONDS = 0.02
_MOST_CALLS = 2000  # in a block
_FEWEST_ROUNDS, _MOST_ROUNDS = 15, 100
_EVICTING_BYTES = 1 << 27  # several times the last-level cache of a desktop, more than that of most servers
STATES = ("repeated", "cold")  # of the caches, see `in_states`


def pin(core: int = -1) -> int:
    """Keeps this thread, and those that it starts from now on, on one core, where the system has such a call.

    Args:
        core: its number; -1: the last one that the process may use.

    Returns:
        The core's number; -1 where cores cannot be chosen.
    """
    if not hasattr(os, "sched_setaffinity"):
        return -1
    core = max(os.sched_getaffinity(0)) if core < 0 else core
    os.sched_setaffinity(0, {core})
    return core


def machine() -> dict[str, Any]:
    """What a reader of the figures must know of the machine, its load in the last minute included."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if pathlib.Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    extensions = ("avx2", "avx512f", "avx512_vbmi", "avx512_vnni", "amx_int8", "asimd", "asimddp")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "extensions": [name for name in extensions if name in flags],
        "caches": _caches(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime": f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}",
        "load": round(os.getloadavg()[0], 2),
    }


def _caches() -> dict[str, str]:
    """Data caches of the first core, as Linux names them: level -> size."""
    found = {}
    for folder in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def in_turn(cases: Mapping[str, Callable[[], Any]], *, rounds: int, units: int = 1) -> dict[str, np.ndarray]:
    """Calls each case once a round; the round before the first, which compiles and fills caches, does not count.

    Args:
        cases: name -> what to time.
        rounds: how often.
        units: what a call consists of, for example training steps.

    Returns:
        name -> milliseconds of a unit, (rounds,) float64.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(rounds + 1):
        for name, call in cases.items():
            start = time.perf_counter()
            call()
            if round_ > 0:
                samples[name].append((time.perf_counter() - start) * 1e3 / units)
    return {name: np.array(values) for name, values in samples.items()}


def in_blocks(cases: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, np.ndarray]:
    """Gives each case a block of calls a round, one after another, as a program does that runs nothing else.

    Args:
        cases: name -> what to time; a block takes about 20 ms, and its first call, which brings the weights back into
            the caches, does not count.
        rounds: how often.

    Returns:
        name -> the median milliseconds of a call in each block, (rounds,) float64.
    """
    counts = {}
    for name, call in cases.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = int(np.clip(_BLOCK_SECONDS / (time.perf_counter() - start), 1, _MOST_CALLS))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            call()
            samples[name].append(float(np.median([_milliseconds(call) for _ in range(counts[name])])))
    return {name: np.array(values) for name, values in samples.items()}


def in_turn_cold(
    cases: Mapping[str, Callable[[], Any]],
    evict: Callable[[], Any],
    *,
    rounds: int,
    small: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Calls each case once a round, with none of its weights in the caches.

    Args:
        cases: name -> what to time.
        evict: called before each call, not timed: `reader` of more bytes than the caches have.
        small: name -> a call like the case's, of few weights, between `evict` and the case, not timed: it brings back
            the code, which is the interpreter's for the most part.
        rounds: how often; the round before the first does not count.

    Returns:
        name -> milliseconds of a call, (rounds,) float64.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(rounds + 1):
        for name, call in cases.items():
            evict()
            if small is not None:
                small[name]()
            elapsed = _milliseconds(call)
            if round_ > 0:
                samples[name].append(elapsed)
    return {name: np.array(values) for name, values in samples.items()}


def in_states(
    cases: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    states: Sequence[str] = STATES,
    small: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Times cases in turn, with the caches in one state or the other.

    Args:
        cases: name -> what to time.
        seconds: for each state, about; there are always 15 rounds and never more than 100.
        states: "repeated": `in_blocks`; "cold": `in_turn_cold`, after a read of 128 MB.
        small: as in `in_turn_cold`.

    Returns:
        state -> name -> milliseconds of a call, (rounds,) float64.
    """
    samples = {}
    if "repeated" in states:
        samples["repeated"] = in_blocks(cases, rounds=_rounds_for(cases, seconds, extra=2 * _BLOCK_SECONDS))
    if "cold" in states:
        evict = reader(_EVICTING_BYTES)
        samples["cold"] = in_turn_cold(
            cases, evict, rounds=_rounds_for(cases, seconds, extra=_milliseconds(evict) / 1e3)
        )
    return samples


def _rounds_for(cases: Mapping[str, Callable[[], Any]], seconds: float, *, extra: float) -> int:
    """How many rounds fit into some seconds, with some more seconds for each call."""
    one = sum(_milliseconds(call) for call in cases.values()) / 1e3 + extra * len(cases)
    return int(np.clip(seconds / one, _FEWEST_ROUNDS, _MOST_ROUNDS))


def _milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def reader(num_bytes: int) -> Callable[[], int]:
    """Reads so many bytes from the first to the last and does nothing else with them: the C library's memchr."""
    stream, absent = b"\x01" * num_bytes, b"\x02"
    return lambda: stream.find(absent)


def rows(samples: Mapping[str, np.ndarray], base: str | None = None) -> dict[str, Row]:
    """Median and spread in milliseconds, and of each round's ratio to one case, by default the first."""
    divisor = samples[base or next(iter(samples))]
    table = {}
    for name, values in samples.items():
        times, ratios = np.percentile(values, [50, 10, 90]), np.percentile(values / divisor, [50, 10, 90])
        keys = ("median_ms", "p10_ms", "p90_ms", "ratio", "ratio_p10", "ratio_p90")
        table[name] = dict(zip(keys, [*times.tolist(), *ratios.tolist()], strict=True))
    return table


def show(title: str, table: Mapping[str, Row]) -> None:
    """Prints a table; the last column is the ratio to its first row."""
    print(f"{title:26} {'median ms':>10} {'p10':>9} {'p90':>9} {'ratio':>7}")
    for name, row in table.items():
        times = f"{row['median_ms']:10.3f} {row['p10_ms']:9.3f} {row['p90_ms']:9.3f}"
        print(f"  {name:24} {times} {row['ratio']:7.3f}", flush=True)


def write(path: str | pathlib.Path, result: Any) -> None:
    """Writes the figures as JSON."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(result, indent=2).encode())
    print(f"written to {target}")
