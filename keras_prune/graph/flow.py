"""Which channel each place of a tensor belongs to, and which channels go together."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.graph.calls import Shape

FIXED = -1  # a place that no channel can take away


@dataclasses.dataclass(frozen=True)
class Flow:
    """What is known of a tensor.

    Attributes:
        shape: the tensor's, with the batch first; None where unknown.
        ids: int array of the same rank: the channel at each place, or `FIXED`. An axis along which it does not
            change has length 1.
        value: float array that broadcasts to `ids`: what is at a place whose channel is pruned; NaN: it depends.
    """

    shape: Shape
    ids: np.ndarray
    value: np.ndarray

    @staticmethod
    def fixed(shape: Shape) -> Flow:
        """A tensor without channels to prune."""
        return Flow(shape, np.full((1,) * len(shape), FIXED), np.zeros((1,) * len(shape)))

    @staticmethod
    def along(shape: Shape, axis: int, ids: np.ndarray, *, value: float | np.ndarray = 0.0) -> Flow:
        """A tensor whose channels lie on one axis.

        Args:
            shape: the tensor's.
            axis: any sign.
            ids: (shape[axis],) int.
            value: one, or one for each channel.
        """
        form = [1] * len(shape)
        form[axis] = len(ids)
        value = np.broadcast_to(np.asarray(value, np.float64), ids.shape)
        return Flow(shape, ids.reshape(form), value.reshape(form))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def varies(self, axis: int) -> bool:
        """Whether channels change along the axis."""
        return self.ids.shape[axis] > 1

    def values(self) -> np.ndarray:
        """`value` in the form of `ids`."""
        return np.broadcast_to(self.value, self.ids.shape)


class Channels:
    """All channels of a model, those that go together united, and why some must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> np.ndarray:
        """New channels, (count,) int."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, channel: int) -> int:
        """The one that stands for all that are united with a channel."""
        root = channel
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[channel] != root:
            self._parent[channel], channel = root, self._parent[channel]
        return root

    def roots(self, ids: np.ndarray) -> np.ndarray:
        """`find` at each place, any shape."""
        found, places = np.unique(ids, return_inverse=True)
        roots = np.array([i if i == FIXED else self.find(int(i)) for i in found], dtype=ids.dtype)
        return roots[places].reshape(ids.shape)

    def unite(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        """Unites the channels at equal places; one with a fixed place must stay, for this reason."""
        pairs = np.stack([array.ravel() for array in np.broadcast_arrays(first, second)], axis=1)
        for a, b in np.unique(pairs, axis=0).tolist():
            if FIXED in (a, b):
                self.protect(np.array([a, b]), reason)
                continue
            root, other = sorted((self.find(a), self.find(b)))
            if root != other:
                self._parent[other] = root
                if other in self._reasons:
                    self._reasons.setdefault(root, self._reasons.pop(other))

    def protect(self, ids: np.ndarray, reason: str) -> None:
        """Says why channels, and all that are united with them, must stay."""
        for channel in np.unique(ids).tolist():
            if channel != FIXED:
                self._reasons.setdefault(self.find(channel), reason)

    def reason(self, root: int) -> str | None:
        """Why a channel must stay, or None."""
        return self._reasons.get(root)
