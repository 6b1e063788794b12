"""Callbacks that follow what each `Prune` wrapper says."""

from __future__ import annotations

from typing import Any

from keras_prune.callbacks import PruneCallback
from keras_prune.masks import check_model, mask_constraint
from keras_prune.wrappers import wrappers


class _Among:
    """Whether a variable is one of these."""

    def __init__(self, ids: set[int]) -> None:
        self._ids = ids

    def __call__(self, variable: Any) -> bool:
        return id(variable) in self._ids


def wrapper_callbacks(model: Any) -> list[PruneCallback]:
    """Callbacks for a model with `Prune` wrappers: one for each schedule, criterion and pattern among them.

    Layers without a wrapper, and wrappers without a schedule, are left alone. A wrapped model that is loaded from a
    file knows its schedules, but not how far they have come: its callbacks begin at step 0 again.

    Args:
        model: a Keras 3 model that has been built.

    Returns:
        The callbacks, for ``fit(callbacks=[...])``.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: no wrapper of the model has a schedule.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), keras_prune.Prune(keras.layers.Dense(3), 0.5)])
        >>> [callback.schedule.value(0) for callback in wrapper_callbacks(model)]
        [0.5]
    """
    check_model(model)
    if not model.built and not model.variables:
        raise ValueError(
            "wrapper_callbacks: expected a model that has weights, got one not built; call it on a batch of data"
        )
    groups: list[tuple[Any, set[int]]] = []
    for wrapper in wrappers(model):
        settings = (wrapper.schedule, wrapper.criterion, wrapper.pattern)
        found = next((ids for other, ids in groups if other == settings), None)
        if found is None:
            groups.append((settings, found := set()))
        found.update(id(v) for v in wrapper.layer.variables if mask_constraint(v) is not None)
    result = [
        PruneCallback(schedule, criterion, pattern=pattern, layers=_Among(ids))
        for (schedule, criterion, pattern), ids in groups
        if schedule is not None
    ]
    if not result:
        raise ValueError(
            "wrapper_callbacks: expected layers in Prune(layer, schedule), got a model without any; give the wrappers "
            "a schedule, or train with one PruneCallback(schedule) for all layers"
        )
    return result
