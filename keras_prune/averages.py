"""Averages of weights (``use_ema=True``), kept as sparse as the weights: Keras averages before it masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_prune.gradients import slots
from keras_prune.masks import mask_constraint


class Averages:
    """Sets pruned weights to zero in the averages that optimizers keep, in one call of a traced function."""

    def __init__(self) -> None:
        self._traced_for: tuple[int, ...] = ()  # identities of what the function masks, and by what
        self._optimizers: list[Any] = []  # kept alive, so that their identities stay theirs
        self._mask: Callable[[], None] | None = None

    def mask(self, optimizers: Iterable[Any], model: Any) -> None:
        """Masks the averages now.

        Args:
            optimizers: Keras optimizers, built or not; those without averages are left alone.
            model: what they train.
        """
        averaging = [optimizer for optimizer in optimizers if getattr(optimizer, "use_ema", False)]
        if not averaging:
            return
        variables = model.trainable_variables
        constraints = {id(v): constraint for v in variables if (constraint := mask_constraint(v)) is not None}
        key = (*map(id, averaging), *(len(o.variables) for o in averaging), *map(id, constraints.values()))
        if key != self._traced_for:
            self._traced_for, self._optimizers = key, averaging
            self._mask = _masking(averaging, variables, constraints)
        assert self._mask is not None  # made for the key
        self._mask()


def _masking(optimizers: Iterable[Any], variables: Sequence[Any], constraints: dict[int, Any]) -> Callable[[], None]:
    pairs = [
        (slot, constraints[owner])
        for optimizer in optimizers
        for owner, found in slots(optimizer, variables).items()
        for slot in found
        if owner in constraints and slot.name.endswith("_average")
    ]

    @tf.function
    def mask() -> None:
        for average, constraint in pairs:
            average.assign(constraint.apply_mask(average))

    return mask


def hold_averages(optimizers: Iterable[Any]) -> None:
    """Keeps pruned weights at zero where Keras sets weights to their averages: at the end of each fit, unconstrained.

    Stays with the optimizers, so that later fits without a callback end sparse too; weights without masks are as ever.
    """
    for optimizer in optimizers:
        if getattr(optimizer, "use_ema", False) and "finalize_variable_values" not in vars(optimizer):
            optimizer.finalize_variable_values = _then_mask(optimizer.finalize_variable_values)


def _then_mask(finalize: Callable[[Any], None]) -> Callable[[Any], None]:
    def finalize_and_mask(var_list: Any) -> None:
        finalize(var_list)
        for variable in var_list:
            constraint = mask_constraint(variable)
            if constraint is not None:
                variable.assign(constraint.apply_mask(variable))

    return finalize_and_mask
