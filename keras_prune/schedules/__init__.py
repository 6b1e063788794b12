"""Schedules: training step -> target sparsity, and the steps at which masks change. Pure values."""

from __future__ import annotations

from typing import Any

from keras_prune.registry import lookup
from keras_prune.schedules.base import Schedule, check_sparsity, check_step
from keras_prune.schedules.greedy import Greedy
from keras_prune.schedules.ramps import CosineSparsity, ExponentialSparsity, PolynomialDecay
from keras_prune.schedules.stages import ConstantSparsity, OneShot, PruningRounds, StepTable

__all__ = [
    "KNOWN",
    "ConstantSparsity",
    "CosineSparsity",
    "ExponentialSparsity",
    "Greedy",
    "OneShot",
    "PolynomialDecay",
    "PruningRounds",
    "Schedule",
    "StepTable",
    "check_sparsity",
    "check_step",
    "get",
]

KNOWN = (
    PolynomialDecay,
    ConstantSparsity,
    ExponentialSparsity,
    CosineSparsity,
    OneShot,
    StepTable,
    PruningRounds,
    Greedy,
)


def get(identifier: Any) -> Schedule:
    """A schedule from its name, class, configuration, or itself; raises if it is none."""
    schedule = lookup(identifier, KNOWN, "schedule")
    if not isinstance(schedule, Schedule):
        hint = f"; did you mean PolynomialDecay(final_sparsity={schedule})?" if isinstance(schedule, float) else ""
        raise TypeError(f"schedule: expected a keras_prune schedule or its name, got {schedule!r}{hint}")
    return schedule
