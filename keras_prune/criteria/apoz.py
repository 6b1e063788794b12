"""Units that are mostly zero matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class APoZ(UnitCriterion):
    """``score = 1 - (average percentage of zeros) = fraction of positions and examples where z != 0``, for units.

    For units behind a ReLU: others are never exactly zero, so that all score 1 and the first are kept. Gathered in the
    training step, since the last change of masks. The members of a unit (the layers that feed one channel of a
    residual sum) are averaged.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[1.0, 0.0], [3.0, 2.0]]], "float32")  # one example, two positions, two units
        >>> APoZ().observe(maps, None, axes=(1,)).numpy().tolist()
        [[1.0, 0.5]]

    Hu, Peng, Tai and Tang 2016, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures" (https://arxiv.org/abs/1607.03250).
    """

    spelled: ClassVar[str] = "apoz"  # not "a_po_z"
    observes: ClassVar[str | None] = "activations"

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """The fraction of the map that is not zero, (batch, units)."""
        del gradient
        return ops.mean(ops.cast(ops.not_equal(activation, 0), "float32"), axis=tuple(axes))
