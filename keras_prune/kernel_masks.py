"""Masks kernel by kernel: what most patterns prune."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune import allocation as allocations
from keras_prune.followers import attach_followers
from keras_prune.layer_axes import set_output_axes
from keras_prune.masks import (
    Layers,
    Recipe,
    Statistic,
    apply_masks,
    attach,
    mask_sparsity,
    masks_from_zeros,
    prunable,
)
from keras_prune.regrow import Regrow


class KernelMasks:
    """The masks of a model's kernels, each with its own shape; `UnitMasks` has the same methods.

    Args:
        model: a Keras 3 model that has been built.
        recipe: how masks are made.
        layers: which to prune.
    """

    def __init__(self, model: Any, recipe: Recipe, layers: Layers = None) -> None:
        self.variables = prunable(model, layers)  # path -> what has a mask
        self.statistics = None  # nothing is gathered but at weights
        self._model = model
        self._recipe = recipe

    def attach(self) -> bool:
        """Gives the variables masks; returns whether any had none."""
        new = attach(self.variables)
        set_output_axes(self._model, self.variables)
        return attach_followers(self._model, self.variables, self._recipe.pattern) or new

    @property
    def followers(self) -> list[Any]:
        """What is masked with the kernels' channels: biases, gammas, betas."""
        return [v for kernel in self.variables.values() for v in getattr(kernel.constraint.follow, "followers", ())]

    @property
    def gathers(self) -> bool:
        """Whether the criterion needs the gradients of the kernels."""
        return bool(getattr(self._recipe.criterion, "gathers", False))

    @property
    def sparsity(self) -> float:
        """The fraction of weights that the masks prune."""
        return mask_sparsity(self.variables)

    @property
    def zero_fraction(self) -> float:
        """The fraction of zeros in variables; one that is all zeros is not pruned but has not been trained yet."""
        zeros = size = 0
        for variable in self.variables.values():
            weights = variable.numpy()
            size += weights.size
            zeros += 0 if not weights.any() else weights.size - np.count_nonzero(weights)
        return zeros / size if size else 0.0

    def prune_zeros(self) -> None:
        """Masks what is zero."""
        masks_from_zeros(self.variables)

    def check_target(self, final_sparsity: float) -> None:
        """Raises ValueError for a last target that the pattern or the allocation cannot have."""
        check_target(self._recipe, {path: tuple(v.shape) for path, v in self.variables.items()}, final_sparsity)

    def update(self, sparsity: float, final_sparsity: float, statistic: Statistic) -> dict[int, np.ndarray]:
        """Makes the masks anew.

        Args:
            sparsity: target of all together, in [0, 1).
            final_sparsity: the schedule's last target, in [0, 1).
            statistic: path -> mean of what the criterion gathered, or None.

        Returns:
            For each mask that has changed: ``id(variable)`` -> bool array, True where the weight was kept and still is.
        """
        steady = self._recipe.update(self.variables, sparsity, final_sparsity=final_sparsity, statistic=statistic)
        return {id(self.variables[path]): keep for path, keep in steady.items()}

    def regrow(self, regrow: Regrow, statistic: Statistic, *, done: float, step: int) -> dict[int, np.ndarray]:
        """Lets kept weights change places with pruned ones.

        Args:
            regrow: how.
            statistic: path -> mean of the gradients, if it gathers them.
            done: the part of the schedule that is done.
            step: which tells this change from others.

        Returns:
            As `update`.
        """
        steady = {}
        for path, variable in self.variables.items():
            old, weights = variable.constraint.mask.numpy(), variable.numpy().astype(np.float32)
            new = regrow.update(
                old,
                weights,
                statistic(path) if regrow.gathers else None,
                fraction=regrow.fraction_at(done),
                pattern=self._recipe.pattern.of(variable.constraint.output_axes),
                seed=(path, step),
            )
            if not np.array_equal(old, new):
                variable.constraint.mask.assign(new)
                steady[id(variable)] = old.view(bool) & new.view(bool)
        apply_masks(self.variables)
        return steady

    def apply(self) -> None:
        """Sets what is pruned to zero now."""
        apply_masks(self.variables)


def check_target(
    recipe: Recipe,
    shapes: dict[str, tuple[int, ...]],
    final_sparsity: float,
    *,
    allocation: allocations.Allocation | None = None,
) -> None:
    """Raises ValueError, before the training, for a last target that the pattern or the allocation cannot have.

    Args:
        recipe: the pattern and the allocation.
        shapes: name -> shape of what is pruned.
        final_sparsity: the schedule's last target, in [0, 1).
        allocation: in the place of the recipe's.
    """
    shared = allocation or recipe.allocation
    layers = allocations.known_sparsities(shared, shapes, final_sparsity).values() if shapes else ()
    same = [final_sparsity] if isinstance(recipe.allocation, (allocations.Uniform, allocations.Global)) else []
    for sparsity in (*same, *layers):
        recipe.pattern.check_sparsity(sparsity)
