"""Criteria: weights, and what gradients say of them, -> scores; higher is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune.criteria.activation_mean import ActivationMean
from keras_prune.criteria.activation_std import ActivationStd
from keras_prune.criteria.apoz import APoZ
from keras_prune.criteria.base import Criterion
from keras_prune.criteria.batch_norm_scale import BatchNormScale
from keras_prune.criteria.geometric_median import GeometricMedian
from keras_prune.criteria.lamp import LAMP
from keras_prune.criteria.magnitude import Magnitude
from keras_prune.criteria.movement import Movement
from keras_prune.criteria.mutual_information import MutualInformation
from keras_prune.criteria.obd import OBD
from keras_prune.criteria.random import Random
from keras_prune.criteria.snip import SNIP
from keras_prune.criteria.standardized_magnitude import StandardizedMagnitude
from keras_prune.criteria.taylor import Taylor
from keras_prune.criteria.taylor_fo import TaylorFO
from keras_prune.criteria.units import UnitCriterion
from keras_prune.criteria.weight_norm import WeightNorm
from keras_prune.registry import lookup

KNOWN = (
    *(Magnitude, StandardizedMagnitude, WeightNorm, Taylor, TaylorFO, OBD, LAMP, Movement, SNIP, Random),
    *(ActivationMean, ActivationStd, APoZ, MutualInformation, GeometricMedian, BatchNormScale),
)

__all__ = [
    "KNOWN",
    "LAMP",
    "OBD",
    "SNIP",
    "APoZ",
    "ActivationMean",
    "ActivationStd",
    "BatchNormScale",
    "Criterion",
    "GeometricMedian",
    "Magnitude",
    "Movement",
    "MutualInformation",
    "Random",
    "StandardizedMagnitude",
    "Taylor",
    "TaylorFO",
    "UnitCriterion",
    "WeightNorm",
    "get",
]


def get(identifier: Any) -> Callable[..., np.ndarray]:
    """A criterion from its name, class, configuration, a function weights -> scores, or itself."""
    criterion = lookup(identifier, KNOWN, "criterion")
    if not callable(criterion):
        raise TypeError(
            f"criterion: expected a criterion, its name, or a function weights -> scores, got {criterion!r}"
        )
    return criterion
