"""Weights and units whose removal would change the loss least, to first order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_prune.criteria.base import Criterion, pruned_last

_REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Taylor(Criterion):
    """The change of the loss on removal, to first order: ``|mean over the map of dC/dz * z|``, or ``|w * dC/dw|``.

    It scores whatever the pattern prunes, by the mean since the last change of masks.

    - Units (``pattern=Channel()``): ``score = mean over examples of |mean over the map of dC/dz * z|``, z the unit's
      activation and C an example's loss, gathered in the backward pass of the training step. The map is all of space
      and time. The members of a unit (the layers that feed one channel of a residual sum) are added up, each with its
      own absolute value: added before, they would cancel, for what the trunk feeds is normalised. Units that have no
      activation of their own (attention heads): ``mean over steps of |sum over the unit's weights of w * dC/dw|``.
    - Weights: ``score = mean over steps of |w * dC/dw|``, each step with the gradient of its batch; for blocks take the
      sum: ``Block(..., "sum")``.

    C is the mean of the batch's losses in Keras (``reduction="sum_over_batch_size"``), so an example's gradient is the
    batch's times its size. What is pruned has the lowest scores, as it is zero.

    Args:
        reduction: what is made of a unit's map: the paper's ``"mean"``, whose size differs from layer to layer, so that
            each layer's scores are divided by their l2 norm before layers are compared; or the ``"sum"``, which is the
            first-order change of the loss itself, and is compared as it is. Within a layer both rank alike.

    Raises:
        ValueError: another reduction.

    Example:
        >>> import numpy as np
        >>> Taylor()(np.array([2.0, -1.0]), np.array([0.5, 3.0])).tolist()
        [0.5, 3.0]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), equations 7 and 8.
    """

    gathers: ClassVar[bool] = True
    observes: ClassVar[str | None] = "gradients"
    combines: ClassVar[str] = "sum"

    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in _REDUCTIONS:
            raise ValueError(f"Taylor.reduction: expected 'mean' or 'sum', got {self.reduction!r}")

    @property
    def comparable(self) -> bool:  # type: ignore[override]
        """Whether it is the change of the loss itself."""
        return self.reduction == "sum"

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """``mean over the map of dC/dz * z``, or the sum, with its sign, (batch, units)."""
        reduce = ops.sum if self.reduction == "sum" else ops.mean
        return reduce(activation * gradient, axis=tuple(axes))

    def average(self, observed: Any) -> Any:
        """The mean over the examples of the absolute values, (units,)."""
        return ops.mean(ops.abs(observed), axis=0)

    def average_gates(self, change: Any) -> Any:
        """``|sum of w * dC/dw|``."""
        return ops.abs(change)

    def gather(self, weights: Any, gradient: Any) -> Any:
        """``|w * dC/dw|``."""
        return abs(weights * gradient)

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """What was gathered, same shape."""
        return pruned_last(self.need(statistic), weights)
