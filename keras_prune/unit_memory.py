"""What is remembered of units from training step to training step: a mean, or the last examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class MeanMemory:
    """The mean of vectors, one value a unit, in float32.

    Each replica adds to a sum of its own, without waiting for others; it is read as the sum of all.

    Args:
        size: values of a vector.
        name: of the variables.
        everywhere: whether all replicas add the same, as what is made of summed gradients.
    """

    def __init__(self, size: int, name: str, *, everywhere: bool = False) -> None:
        reading = tf.VariableAggregation.ONLY_FIRST_REPLICA if everywhere else tf.VariableAggregation.SUM
        self._sum = _variable(tf.zeros(size), f"{name}_sum", reading)
        self._count = _variable(tf.zeros(()), f"{name}_count", reading)

    def add(self, mean: Any, count: Any) -> None:
        """Adds a mean of `count` observations; part of the graph. Those with an infinity or NaN are left out.

        These come from steps whose gradients overflow, which optimizers that scale the loss skip.

        Args:
            mean: (size,), float32.
            count: scalar, float32.
        """
        finite = tf.math.is_finite(tf.reduce_sum(mean))
        self._sum.assign_add(tf.where(finite, mean * count, tf.zeros_like(mean)))
        self._count.assign_add(tf.where(finite, count, tf.zeros(())))

    @property
    def count(self) -> float:
        """How many observations there were."""
        return float(_read(self._count))

    @property
    def mean(self) -> np.ndarray:
        """Of all observations, (size,), float32; NaN if there were none."""
        count = np.float32(self.count)
        return _read(self._sum) / count if count else np.full(self._sum.shape, np.nan, np.float32)

    def clear(self) -> None:
        """Forgets everything."""
        for variable in (self._sum, self._count):
            variable.assign(tf.zeros_like(variable.read_value()))

    def save(self) -> dict[str, np.ndarray]:
        """The state, for `load`."""
        return {"sum": _read(self._sum), "count": _read(self._count)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a state."""
        self._sum.assign(state["sum"])
        self._count.assign(state["count"])


class ExampleMemory:
    """What was observed of the last examples, and their labels; each replica remembers its own.

    Args:
        size: values of an example.
        name: of the variables.
        examples: how many are remembered.
    """

    def __init__(self, size: int, name: str, *, examples: int) -> None:
        own = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self._values = _variable(tf.zeros((examples, size)), f"{name}_values", own)
        self._labels = _variable(tf.fill((examples,), -1), f"{name}_labels", own)  # -1: none yet

    def add(self, values: Any, labels: Any) -> None:
        """Remembers examples, and forgets the oldest; part of the graph.

        Args:
            values: (batch, size), float32; rows with an infinity or NaN are left out when read.
            labels: (batch,), int32, >= 0.
        """
        for variable, new in ((self._values, values), (self._labels, labels)):
            variable.assign(tf.concat([variable.read_value(), new], axis=0)[-variable.shape[0] :])

    @property
    def count(self) -> float:
        """How many examples there are."""
        return float(len(self.examples[1]))

    @property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (examples, size), float32, and labels (examples,), int32."""
        values, labels = (np.concatenate([v.numpy() for v in _local(v)]) for v in (self._values, self._labels))
        there = (labels >= 0) & np.isfinite(values).all(axis=1)
        return values[there], labels[there]

    def clear(self) -> None:
        """Forgets everything."""
        self._labels.assign(tf.fill(self._labels.shape, -1))

    def save(self) -> dict[str, np.ndarray]:
        """The state, for `load`: the last examples of the first replica."""
        return {"values": _read(self._values), "labels": _read(self._labels)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a state."""
        self._values.assign(state["values"])
        self._labels.assign(state["labels"])


def _variable(value: Any, name: str, aggregation: Any) -> Any:
    reading = tf.VariableSynchronization.ON_READ
    with tf.init_scope():
        return tf.Variable(value, trainable=False, name=name, synchronization=reading, aggregation=aggregation)


def _local(variable: Any) -> Any:
    """The variable of each replica of this process."""
    strategy = getattr(variable, "distribute_strategy", None)
    return (variable,) if strategy is None else strategy.experimental_local_results(variable)


def _read(variable: Any) -> np.ndarray:
    return variable.read_value().numpy()
