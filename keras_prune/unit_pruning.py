"""What a pattern prunes in a model: kernels, each by itself, or the units of `keras_prune.graph`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from keras_prune.allocation import Uniform
from keras_prune.channels import UnitMasks
from keras_prune.graph import make_graph, unwrapped
from keras_prune.kernel_masks import KernelMasks, check_target
from keras_prune.layer_axes import layers_within
from keras_prune.masks import Layers, Recipe, Statistic
from keras_prune.objective import CostShares, Regularized, scoring
from keras_prune.patterns import Channel
from keras_prune.unit_selection import GroupAllocation, UnitScores, choose
from keras_prune.unit_statistics import UnitStatistics, gathers_weights


class UnitPruning(UnitMasks):
    """The masks of a model's units, and how they are made anew; `KernelMasks` has the same methods.

    Args:
        model: a Keras 3 model that has been built.
        recipe: how masks are made.
        layers: which to prune.
    """

    def __init__(self, model: Any, recipe: Recipe, layers: Layers = None) -> None:
        assert isinstance(recipe.pattern, Channel)
        super().__init__(model, recipe.pattern, layers)
        self._recipe = dataclasses.replace(recipe, criterion=scoring(recipe.criterion))
        self.statistics = UnitStatistics(self._recipe.criterion, self.groups)
        self._strength, self._shares, self._warned = 0.0, None, False
        if isinstance(recipe.criterion, Regularized):
            self._strength = recipe.criterion.strength
            self._shares = CostShares(model, self, recipe.criterion.cost)

    @property
    def gathers(self) -> bool:
        """Whether the criterion needs the gradients of the kernels."""
        return gathers_weights(self._recipe.criterion)

    def check_regrow(self, regrow: Any) -> None:
        """Raises ValueError for a way to regrow: a unit is pruned from all layers that it joins, and stays pruned."""
        if regrow is not None:
            raise ValueError(
                f"regrow: expected single weights or blocks, or Channel(output_axes=-1), which masks each kernel by "
                f"itself, got {self._recipe.pattern!r} and {regrow!r}: whole units do not come back"
            )

    def take_over(self, other: Any) -> None:
        """Goes on with what an earlier object for the same units has gathered."""
        if isinstance(other, UnitPruning) and list(other.variables) == list(self.variables):
            self.statistics = other.statistics

    def check_target(self, final_sparsity: float) -> None:
        """Raises ValueError for a last target that the allocation cannot have."""
        shapes: dict[str, tuple[int, ...]] = {group.name: (len(group.units),) for group in self.groups}
        allocation = GroupAllocation(self._recipe.allocation, self.names)
        check_target(self._recipe, shapes, final_sparsity, allocation=allocation)

    def scores(self, statistic: Statistic) -> UnitScores:
        """The scores of all units, by group."""
        penalty = None if self._shares is None else self._strength * self._shares(self.kept)
        return UnitScores(self, self._recipe, statistics=self.statistics, statistic=statistic, penalty=penalty)

    def update(self, sparsity: float, final_sparsity: float, statistic: Statistic) -> dict[int, np.ndarray]:
        """Makes the masks anew: arguments and result as those of `KernelMasks.update`, with a target of units."""
        if self._shares is not None and not self._warned and isinstance(self._recipe.allocation, Uniform):
            self._warned = True
            logging.warning(
                "Regularized: what units cost counts between groups, and allocation='uniform' prunes the same share of "
                "each; give allocation='global', or the schedule Greedy."
            )
        scores = self.scores(statistic)
        return self.set(choose(self, self._recipe, scores, targets=(sparsity, final_sparsity)))


def make_masks(model: Any, recipe: Recipe, layers: Layers = None) -> KernelMasks | UnitPruning:
    """The masks of a model, as the pattern wants them; they are not on its variables before `attach`.

    Args:
        model: a Keras 3 model that has been built.
        recipe: how masks are made.
        layers: which to prune.

    Raises:
        ValueError: nothing to prune, or arguments of `Channel` that a model that cannot be traced has no use for.
    """
    pattern = recipe.pattern
    why = _why_by_kernel(model, pattern) if isinstance(pattern, Channel) else f"{pattern!r}"
    if why is None:
        return UnitPruning(model, recipe, layers)
    if isinstance(recipe.criterion, Regularized):
        raise ValueError(
            f"Regularized: expected pattern=Channel() and a Sequential or functional model, whose units have costs, "
            f"got {why}; give {scoring(recipe.criterion)!r} as the criterion"
        )
    if not isinstance(pattern, Channel):
        return KernelMasks(model, recipe, layers)
    if (pattern.round_to, pattern.minimum, pattern.protected, pattern.exact) != (1, 1, (), True):
        raise ValueError(
            f"pattern: expected Channel() without round_to, minimum, protected and exact for {why}, where each kernel "
            f"is masked by itself, got {pattern!r}; leave them out, and choose with layers=..."
        )
    if pattern.output_axes is None:
        logging.warning(
            "Channel: each kernel's channels are masked by themselves, and shrink cannot remove any, for this is %s.",
            why,
        )
    return KernelMasks(model, recipe, layers)


def _why_by_kernel(model: Any, pattern: Channel) -> str | None:
    """Why a model's channels have masks kernel by kernel; None if they go by units."""
    if pattern.output_axes is not None:
        return "output_axes"
    if make_graph(model) is None:
        return f"{type(model).__name__}, whose layers only its own code connects"
    if any(unwrapped(layer) is not layer for layer in layers_within(model)):
        return "a model with Prune wrappers"
    return None
