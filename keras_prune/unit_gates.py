"""Gradients of units' weights, summed over each unit before they are squared, gathered inside the training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_prune.layer_axes import layers_within
from keras_prune.unit_memory import MeanMemory

if TYPE_CHECKING:
    from keras_prune.graph import Group, Part


class Gates:
    """Gathers ``sum over a unit's weights of w * dC/dw`` of one group, in each step.

    The weights are those of the gates behind the units, the scales and shifts of batch normalization, where the group
    has them, and the kernels elsewhere.

    Args:
        criterion: says what to average over the steps.
        group: of units.

    Attributes:
        memory: what was gathered.
        seen: whether gradients came by in a step that was traced.
    """

    def __init__(self, criterion: Any, group: Group) -> None:
        self.name = group.name
        self.seen = False
        self.memory = MeanMemory(len(group.units), f"{group.name}_gates", everywhere=True)
        self._criterion = criterion
        self._units = group.units
        self._members: list[list[tuple[Part, Any]]] = []  # of each member its parts, each with a variable like it
        for part in group.scales or group.kernels:
            self._members.append([(part, part.variable)])

    def find_shifts(self, model: Any) -> None:
        """Adds to each scale the shift of its normalization, which is where a pruned unit is zero too."""
        shifts = {
            id(layer.gamma): getattr(layer, "beta", None)  # Keras 3.4 has no attribute where newer ones have None
            for layer in layers_within(model)
            if getattr(layer, "gamma", None) is not None
        }
        for member in self._members:
            part, scale = member[0]
            beta = shifts.get(id(scale))
            member[1:] = [] if beta is None else [(part, beta)]

    def gather(self, gradients: Mapping[int, Any]) -> None:
        """Adds the gradients of one step; part of the graph.

        Args:
            gradients: identity of a variable -> gradient of the loss, not scaled, or None.
        """
        found = [self._change(member, gradients) for member in self._members]
        changes = [change for change in found if change is not None]
        if changes:
            self.seen = True
            self.memory.add(sum(self._criterion.average_gates(change) for change in changes), tf.ones(()))

    def _change(self, member: list[tuple[Part, Any]], gradients: Mapping[int, Any]) -> Any:
        """The units' sums over one member, (units,), float32, or None if none of its weights is trained."""
        products = [
            _product(variable, gradients[id(variable)], part.axis)
            for part, variable in member
            if gradients.get(id(variable)) is not None
        ]
        if not products:
            return None
        places = positions(member[0][0].units, self._units)
        return tf.math.unsorted_segment_sum(tf.add_n(products), places, len(self._units))


def positions(units: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Where units are in a group.

    Args:
        units: numbers of units, any shape, int.
        group: those of the group, (n,) int, all different.

    Returns:
        Places in the group, same shape as `units`, int32; -1 where a unit is not in it.

    Example:
        >>> positions(np.array([7, -1, 5, 9]), np.array([5, 7])).tolist()
        [1, -1, 0, -1]
    """
    order = np.argsort(group, kind="stable")
    places = order[np.searchsorted(group, units, sorter=order).clip(max=len(group) - 1)]
    return np.where(group[places] == units, places, -1).astype(np.int32)


def _product(variable: Any, gradient: Any, axis: int) -> Any:
    """``sum of w * dC/dw`` over all axes but one, float32; of all replicas together."""
    gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
    axes = [other for other in range(gradient.shape.rank) if other != axis]
    return tf.reduce_sum(tf.cast(tf.convert_to_tensor(variable.value), tf.float32) * gradient, axes)
