"""Units whose activations hardly change matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class ActivationStd(UnitCriterion):
    """``score = mean over steps of the s.d. of z over the examples and the map``, for units.

    A unit that is constant can be replaced by a bias. The deviation is that of a batch, over its examples and all
    positions together: the paper's is over the map of one example, which has no meaning for dense layers, whose maps
    are single values. Gathered in the training step, since the last change of masks. The members of a unit (the layers
    that feed one channel of a residual sum) are averaged.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[1.0], [3.0]], [[5.0], [7.0]]], "float32")  # two examples, two positions, one unit
        >>> criterion = ActivationStd()
        >>> print(criterion.average(criterion.observe(maps, None, axes=(1,))).numpy().round(3))
        [2.236]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2.2.
    """

    observes: ClassVar[str | None] = "activations"

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """Mean and variance over the map of each example, (batch, units, 2)."""
        del gradient
        mean, variance = ops.moments(activation, axes=list(axes)) if axes else (activation, ops.zeros_like(activation))
        return ops.stack([mean, variance], axis=-1)

    def average(self, observed: Any) -> Any:
        """The batch's s.d., (units,): its variance is that within the maps and that of the maps' means."""
        means, within = observed[..., 0], observed[..., 1]
        return ops.sqrt(ops.var(means, axis=0) + ops.mean(within, axis=0))
