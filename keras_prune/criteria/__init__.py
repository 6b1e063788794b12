"""Criteria: weights -> scores; higher is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune.criteria.base import Criterion
from keras_prune.criteria.magnitude import Magnitude
from keras_prune.registry import lookup

__all__ = ["Criterion", "Magnitude", "get"]


def get(identifier: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A criterion from its name, class, configuration, a function weights -> scores, or itself."""
    criterion = lookup(identifier, (Magnitude,), "criterion")
    if not callable(criterion):
        raise TypeError(
            f"criterion: expected a criterion, its name, or a function weights -> scores, got {criterion!r}"
        )
    return criterion
