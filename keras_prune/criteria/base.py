"""What a criterion is."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from keras_prune.registry import Value


class Criterion(Value):
    """Base of criteria: says how much each weight matters.

    A plain function from weights to scores serves as well; a class adds arguments, a name, and gradients.

    Attributes:
        gathers: whether scores need gradients. `gather` is then called in every training step, and the mean of its
            results over these steps is given to `__call__` as `statistic`.
        resets: whether the mean begins anew after each change of masks, or goes on since the first step.
    """

    gathers: ClassVar[bool] = False
    resets: ClassVar[bool] = True

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Scores the weights of one layer.

        Args:
            weights: any shape, float; pruned weights are exactly zero.
            statistic: the mean of what `gather` returned, same shape, float32; None where `gathers` is False.

        Returns:
            Scores of the same shape, float, not NaN; weights with higher scores are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(weights, statistic)")

    def gather(self, weights: Any, gradient: Any) -> Any:
        """What to average over training steps, with `keras.ops` alone: it becomes part of the training step.

        Args:
            weights: the variable's values as a tensor, any shape.
            gradient: of the loss with respect to the weights, same shape, not scaled.

        Returns:
            Tensor of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define gather(weights, gradient), or gathers = False")

    def of(self, path: str) -> Criterion:
        """The criterion for the weight at this path; itself, unless weights shall be told apart."""
        del path
        return self

    def need(self, statistic: np.ndarray | None) -> np.ndarray:
        """The statistic; raises ValueError if none was gathered."""
        if statistic is None:
            name = type(self).__name__
            raise ValueError(
                f"{name}: expected gradients, got none; train with PruneCallback(criterion={name}()), which gathers "
                f"them in each step, or give data: prune(model, sparsity, criterion={name}(), data=...)"
            )
        return statistic


def pruned_last(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Puts weights that are exactly zero just below all others, so that of ties pruned weights are not brought back.

    The step is too small to matter in the mean of a block.
    """
    return np.where(weights == 0, -np.finfo(np.float32).tiny, scores)
