"""What a pattern is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune.kernel_axes import OutputAxes
from keras_prune.registry import Value
from keras_prune.selection import kept_count, select_highest

_POOLING = ("mean", "sum", "max")


class Pattern(Value):
    """Base of patterns: groups weights into units that are kept or pruned as one.

    A subclass defines `pool` and `spread`; one that is bound to exact counts in each part of the matrix also `keep`.
    """

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Scores of the weights, any shape -> scores of the units, (num_units,)."""
        raise NotImplementedError(f"{type(self).__name__} must define pool(scores)")

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values of the units, (num_units,) -> values of the weights, `shape`, such as a mask."""
        raise NotImplementedError(f"{type(self).__name__} must define spread(units, shape)")

    def keep(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Marks exactly ``round(num_units * (1 - sparsity))`` units with the highest scores, below 1 at least one.

        Args:
            scores: of the weights, any shape, float, not NaN; of equal units those that come first are kept.
            sparsity: fraction of units to prune, in [0, 1].

        Returns:
            Mask of the weights, same shape, uint8: 1 = kept, 0 = pruned.

        Raises:
            ValueError: a score is NaN, or the pattern cannot have this sparsity.
        """
        units = self.pool(scores)
        keep = select_highest(units, kept_count(len(units), sparsity))
        return self.spread(keep.view(np.uint8), scores.shape)

    def of(self, output_axes: OutputAxes) -> Pattern:
        """The pattern for a kernel that counts its outputs on these axes; itself, if that does not matter to it."""
        if getattr(self, "output_axes", output_axes) is not None:
            return self
        return dataclasses.replace(self, output_axes=output_axes)  # type: ignore[type-var]

    @property
    def max_sparsity(self) -> float:
        """The highest sparsity that the pattern can have, in (0, 1]."""
        return 1.0

    def check_sparsity(self, sparsity: float) -> None:
        """Raises ValueError for a sparsity that the pattern cannot have."""
        if sparsity > self.max_sparsity + 1e-6:  # allocations compute sparsities in floating point
            raise ValueError(
                f"{self!r}: expected a sparsity up to {self.max_sparsity:g}, got {sparsity:g}; give this pattern at "
                f"most {self.max_sparsity:g} as its (final) sparsity, and an allocation that keeps each layer to it"
            )

    def share(self, scores: np.ndarray) -> np.ndarray:
        """Each weight's score as allocations compare it: that of its unit. Same shape."""
        return self.spread(self.pool(scores), scores.shape)


def is_count(number: Any) -> bool:
    """Whether it is a whole number >= 1."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def check_pooling(name: str, pooling: Any) -> None:
    """Raises ValueError for an unknown way to make a unit's score of its weights' scores."""
    if pooling not in _POOLING:
        raise ValueError(f"{name}.pooling: expected one of {', '.join(map(repr, _POOLING))}, got {pooling!r}")
