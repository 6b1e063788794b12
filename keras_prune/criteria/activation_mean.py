"""Units whose activations are small matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class ActivationMean(UnitCriterion):
    """``score = mean over examples of (mean over the map of |z|)``, for units.

    Behind a ReLU, as in the paper, ``|z|`` is the activation itself. Gathered in the training step, since the last
    change of masks. The members of a unit (the layers that feed one channel of a residual sum) are averaged.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[1.0, 0.0], [3.0, 0.0]]], "float32")  # one example, two positions, two units
        >>> ActivationMean().observe(maps, None, axes=(1,)).numpy().tolist()
        [[2.0, 0.0]]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2.2.
    """

    observes: ClassVar[str | None] = "activations"

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """``mean over the map of |z|``, (batch, units)."""
        del gradient
        return ops.mean(ops.abs(activation), axis=tuple(axes))
