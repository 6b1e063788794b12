"""Times of several cases, taken in turn, so that what slows the machine slows all alike; and their table."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_prune_export.files import write_atomic

Row = dict[str, float]


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


def rows(samples: Mapping[str, np.ndarray]) -> dict[str, Row]:
    """Median and spread in milliseconds, and the median of each round's ratio to the first case."""
    base = next(iter(samples.values()))
    return {
        name: {
            "median_ms": float(np.median(values)),
            "p10_ms": float(np.percentile(values, 10)),
            "p90_ms": float(np.percentile(values, 90)),
            "ratio": float(np.median(values / base)),
        }
        for name, values in samples.items()
    }


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
