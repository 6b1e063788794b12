"""The state of a pruning run, in the files that the model's weights are saved to: a killed run goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

_ATTRIBUTE = "keras_prune_state"


class SavedState(keras.losses.Loss):
    """Saves arrays with a model's weights, and takes them back when the weights are loaded.

    It is a `Loss` because Keras saves each one that a model has as an attribute, into a group of its own: a file with
    it loads into a model without it and the other way round, and the model has no weight, layer or metric more.

    Args:
        save: makes the arrays, when the model is saved.
        arrived: called when arrays have been loaded.
    """

    def __init__(self, save: Callable[[], Mapping[str, np.ndarray]], arrived: Callable[[], None] | None = None) -> None:
        super().__init__(name="keras_prune_state")
        self.fit: Any = None  # the `History` of the fit that it is there for; None: for longer
        self.leave: Callable[[], None] | None = None  # takes it, and what goes with it, off the model
        self.loaded: dict[str, np.ndarray] | None = None  # what the last file had
        self._save = save
        self._arrived = arrived

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Refused: nothing is computed here."""
        raise NotImplementedError("SavedState holds the state of pruning; it is not a loss to train with")

    def save_own_variables(self, store: Any) -> None:
        """Called by Keras when the model's weights are saved."""
        for name, value in self._save().items():
            store[name] = value

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras when weights are loaded; a file without such arrays changes nothing."""
        self.loaded = {name: np.array(store[name]) for name in store.keys()} or None  # noqa: SIM118
        if self.loaded and self._arrived is not None:
            self._arrived()

    def take(self) -> dict[str, np.ndarray] | None:
        """What the last file had, once."""
        loaded, self.loaded = self.loaded, None
        return loaded


def add_state(
    model: Any, save: Callable[[], Mapping[str, np.ndarray]], arrived: Callable[[], None] | None = None
) -> SavedState:
    """Adds a state to a model, after those that it has; the order is what tells them apart in a file."""
    number = 0
    while hasattr(model, f"{_ATTRIBUTE}_{number}"):
        number += 1
    state = SavedState(save, arrived)
    setattr(model, f"{_ATTRIBUTE}_{number}", state)
    return state


def states(model: Any) -> list[SavedState]:
    """The states that a model has."""
    return [value for value in vars(model).values() if isinstance(value, SavedState)]


def remove_state(model: Any, state: SavedState) -> None:
    """Takes a state off the model, if it is there."""
    for name, value in list(vars(model).items()):
        if value is state:
            delattr(model, name)


def pack_masks(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks of 0 and 1 -> arrays of one bit a weight, named ``mask_0``, ``mask_1``, ... in their order."""
    return {f"mask_{i}": np.packbits(mask.reshape(-1)) for i, mask in enumerate(masks.values())}


def unpack_mask(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One bit a weight -> uint8 mask of the shape."""
    size = int(np.prod(shape))
    return np.unpackbits(packed, count=size).reshape(shape)
