"""Units that say little of the label matter least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_prune.criteria.units import UnitCriterion


@dataclasses.dataclass(frozen=True)
class MutualInformation(UnitCriterion):
    """``score = H(z) + H(y) - H(z, y)`` in nats, z: an example's mean activation, quantised, y: its label; for units.

    The last `examples` of training are remembered, each as the mean over the map, with its label. Then each unit's
    values are quantised into `bins` of equally many examples (fewer bins where many values are equal, as zeros behind
    a ReLU), and the entropies are those of the counts. Labels are the targets that the loss is given: whole numbers
    (batch,) or (batch, 1), or one-hot vectors (batch, classes). The members of a unit are averaged.

    Args:
        bins: how many values a quantised activation can have, >= 2.
        examples: how many are remembered, >= 1; the estimate grows by about ``bins * classes / (2 * examples)`` by
            chance, for all units alike, so take more for many classes.

    Example:
        >>> import numpy as np
        >>> values = np.array([[0.0, 5.0], [0.0, 5.0], [1.0, 7.0], [1.0, 5.0]])  # four examples, two units
        >>> print(MutualInformation(bins=2).score_examples(values, np.array([0, 0, 1, 1])).round(3))
        [0.693 0.216]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2.2 and appendix.
    """

    observes: ClassVar[str | None] = "activations"

    bins: int = 8
    examples: int = 2048

    def __post_init__(self) -> None:
        for name, least in (("bins", 2), ("examples", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"MutualInformation.{name}: expected a whole number >= {least}, got {value!r}")

    @property
    def remembers(self) -> int:  # type: ignore[override]
        """How many examples."""
        return self.examples

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """The mean over the map, (batch, units)."""
        del gradient
        return ops.mean(activation, axis=tuple(axes))

    def score_examples(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Mutual information of each unit's quantised values with the labels, (units,), float32, nats."""
        classes = np.unique(labels, return_inverse=True)[1].reshape(-1)
        scores = [mutual_information(quantised(column, self.bins), classes) for column in values.T]
        return np.array(scores, np.float32)


def quantised(values: np.ndarray, bins: int) -> np.ndarray:
    """Numbers of the bins, from 0, of equally many values each; equal values are in one bin. Same shape, int."""
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="lower"))
    return np.searchsorted(edges, values, side="left")


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """``sum of p(a, b) log(p(a, b) / (p(a) p(b)))`` in nats, of two sequences of whole numbers >= 0."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0 / len(a))
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return max(0.0, float((joint[there] * np.log(joint[there] / independent[there])).sum()))
