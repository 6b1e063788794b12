"""What a criterion is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_prune.registry import Value


class Criterion(Value):
    """Base of criteria: says how much each weight matters.

    A plain function from weights to scores serves as well; a class adds arguments, a name, and gradients.

    Units (channels, neurons, heads) are scored by the pooled scores of their weights, unless the class says how to
    score them by their activations (`observes`) or by all their weights (`score_units`).

    Attributes:
        gathers: whether scores of weights need gradients. `gather` is then called in every training step, and the mean
            of its results over these steps is given to `__call__` as `statistic`.
        resets: whether the mean begins anew after each change of masks, or goes on since the first step.
        observes: what scores of units are gathered from in every training step: ``"activations"``, ``"gradients"``
            (activations and the loss's gradients by them) or ``"gates"`` (gradients by the scales and shifts that
            stand behind the units); None: nothing but the weights.
        combines: ``"sum"`` or ``"mean"`` of what was observed at the members of a unit, such as the layers that feed
            one channel of a residual sum.
        remembers: how many examples `score_examples` takes, the last ones; 0: none, the mean of `average` is the score.
        comparable: whether scores of units of all layers are compared as they are, unless costs are taken off them;
            otherwise those of each layer are divided by their l2 norm.
        revives: whether a unit that is zero has the score it gets, and may come back; otherwise it comes last.
    """

    gathers: ClassVar[bool] = False
    resets: ClassVar[bool] = True
    observes: ClassVar[str | None] = None
    combines: ClassVar[str] = "mean"
    remembers: int = 0
    comparable: bool = False
    revives: ClassVar[bool] = False

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

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """What an example says of the units, with `keras.ops` alone: it becomes part of the training step.

        Args:
            activation: (batch, ...), float32, units on the axis that is neither the first nor one of `axes`.
            gradient: of each example's loss with respect to the activation, same shape; None unless `observes` is
                ``"gradients"``.
            axes: those of the map: space and time; () of a dense layer.

        Returns:
            (batch, units), or (batch, units, ...) for `average` to make use of. If the layer is called several times
            in a step, as shared layers are, the results of the calls are added up.
        """
        raise NotImplementedError(f"{type(self).__name__} must define observe(activation, gradient, axes)")

    def average(self, observed: Any) -> Any:
        """What was observed in a batch, (batch, units, ...) -> its mean over the examples, (units,)."""
        return ops.mean(observed, axis=0)

    def average_gates(self, change: Any) -> Any:
        """What to average over training steps of the units' sums of ``w * dC/dw``, both (units,)."""
        raise NotImplementedError(f"{type(self).__name__} must define average_gates(change)")

    def score_examples(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What was observed of the last examples, (examples, units), and their labels, (examples,) -> (units,)."""
        raise NotImplementedError(f"{type(self).__name__} must define score_examples(values, labels)")

    def score_units(self, kernels: Sequence[np.ndarray], scales: Sequence[np.ndarray]) -> np.ndarray | None:
        """Scores of units from all their weights, for criteria that do not score each weight.

        Args:
            kernels: for each kernel that makes the units (units, weights of a unit), float32.
            scales: for each normalization behind them the scales, (units, scales of a unit), float32.

        Returns:
            (units,); None: the scores of their weights are pooled.
        """
        del kernels, scales
        return None

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
