"""Allocations: how a target for the whole model is shared between its layers. Pure NumPy."""

from __future__ import annotations

from typing import Any

from keras_prune.allocation.base import Allocation, check_keys, known_sparsities, matches, shapes_of
from keras_prune.allocation.common import Global
from keras_prune.allocation.erk import ERK
from keras_prune.allocation.exempt import Exempt
from keras_prune.allocation.from_sensitivity import FromSensitivity
from keras_prune.allocation.per_layer import PerLayer
from keras_prune.allocation.quality import QualityParameter
from keras_prune.allocation.uniform import Uniform
from keras_prune.registry import lookup
from keras_prune.selection import kept_count, select_highest

KNOWN = (Uniform, Global, PerLayer, ERK, QualityParameter, FromSensitivity, Exempt)

__all__ = [
    "ERK",
    "KNOWN",
    "Allocation",
    "Exempt",
    "FromSensitivity",
    "Global",
    "PerLayer",
    "QualityParameter",
    "Uniform",
    "check_keys",
    "get",
    "kept_count",
    "known_sparsities",
    "matches",
    "select_highest",
    "shapes_of",
]


def get(identifier: Any) -> Allocation:
    """An allocation from its name, class, configuration, or itself; a dict of sparsities stands for `PerLayer`."""
    if isinstance(identifier, dict) and "class_name" not in identifier:
        return PerLayer(identifier)
    allocation = lookup(identifier, KNOWN, "allocation")
    if not isinstance(allocation, Allocation):
        raise TypeError(f"allocation: expected a keras_prune allocation, its name, or a dict, got {allocation!r}")
    return allocation
