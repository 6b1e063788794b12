"""Masks of units: a channel with everything that must go with it is pruned as one, in all layers that it joins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from keras_prune.graph import Dependencies, Group, Part, dependencies
from keras_prune.graph.shared import check_shared
from keras_prune.masks import Layers, apply_masks, attach, named, prunable
from keras_prune.patterns import Channel


class UnitMasks:
    """The masks of the units of a Sequential or functional model.

    The masks of the kernels say which units are pruned; those of biases, gammas and betas follow them, and the moving
    means of pruned units are set to zero, so that batch normalization gives exactly zero too: training keeps a mean of
    zeros at zero.

    Args:
        model: a Keras 3 model that has been built.
        pattern: which units may go.
        layers: which kernels to prune; a group of units with a kernel that is not among them stays whole.

    Attributes:
        deps: all units of the model.
        groups: those that are pruned here.
        left: name of a group -> why it stays whole.
        variables: path -> kernel of the groups.
        names: name of a group -> that name, and the paths of its kernels.
        num_units: of the groups.

    Raises:
        ValueError: nothing is left to prune, with the reasons; or a layer in two models, which `shrink` cannot build.
    """

    def __init__(self, model: Any, pattern: Channel, layers: Layers = None) -> None:
        check_shared(model)  # before hours of training rather than by `shrink` behind them
        kernels = prunable(model, layers)
        self.deps: Dependencies = dependencies(
            model,
            protected=tuple(pattern.protected),
            round_to=pattern.round_to,
            minimum=pattern.minimum,
            exact=pattern.exact,
        )
        self.left = _left(self.deps, kernels, model)
        self.groups: tuple[Group, ...] = tuple(g for g in self.deps.groups if g.name not in self.left)
        if not self.groups:
            reasons = "; ".join(f"{name}: {why}" for name, why in {**self.deps.refused, **self.left}.items())
            raise ValueError(
                "pattern: expected channels that may go, got none in this model; give Channel(output_axes=-1) to mask "
                f"each kernel by itself, or other layers=...; what stays and why: {reasons}"
            )
        own = {id(part.variable) for group in self.groups for part in group.kernels}
        self.variables = {path: variable for path, variable in kernels.items() if id(variable) in own}
        self._group_masks = [_GroupMasks(group, self.deps) for group in self.groups]
        paths = {id(variable): path for path, variable in kernels.items()}
        self.names = {g.name: [g.name, *(paths[id(part.variable)] for part in g.kernels)] for g in self.groups}
        self.num_units = sum(len(group.units) for group in self.groups)

    def attach(self) -> bool:
        """Gives the variables masks; returns whether any had none."""
        new = attach(self.variables)
        new |= attach({str(id(variable)): variable for variable in self.followers})
        for masks in self._group_masks:
            masks.forget()
        for variable in self.variables.values():
            variable.constraint.follow = _Follow([m for m in self._group_masks if m.has_kernel(variable)])
        return new

    @property
    def followers(self) -> list[Any]:
        """What is trained and masked with the kernels: biases, gammas, betas, depthwise kernels."""
        found = {id(v): v for masks in self._group_masks for v in masks.followers if v.trainable}
        return list(found.values())

    @property
    def kept(self) -> np.ndarray:
        """(deps.num_units,) bool: units that the masks keep; those of other groups are."""
        kept = np.ones(self.deps.num_units, bool)
        for masks in self._group_masks:
            kept[masks.group.units] = masks.kept()
        return kept

    def set(self, kept: np.ndarray) -> dict[int, np.ndarray]:
        """Gives the units new masks, and sets pruned ones to zero.

        Args:
            kept: (deps.num_units,) bool; what it says of units of other groups does not count.

        Returns:
            For each mask that has changed: ``id(variable)`` -> bool array, True where the weight was kept and still is.
        """
        followers = {id(v): v for masks in self._group_masks for v in masks.followers if _mask(v) is not None}
        masked = {**{id(v): v for v in self.variables.values()}, **followers}
        before = {key: variable.constraint.mask.numpy() for key, variable in masked.items()}
        for variable in self.variables.values():
            mask = np.ones(variable.shape, np.uint8)
            for masks in self._group_masks:
                masks.write(mask, variable, kept)
            if not np.array_equal(mask, before[id(variable)]):
                variable.constraint.mask.assign(mask)
        self.apply()
        after = {key: variable.constraint.mask.numpy() for key, variable in masked.items()}
        changed = [key for key in masked if not np.array_equal(before[key], after[key])]
        return {key: (before[key] & after[key]).view(bool) for key in changed}

    @property
    def sparsity(self) -> float:
        """The fraction of the groups' units that the masks prune."""
        return self.fraction(~self.kept)

    @property
    def zero_fraction(self) -> float:
        """The fraction of the groups' units that are exactly zero."""
        return self.fraction(self._zero_units())

    def fraction(self, marked: np.ndarray) -> float:
        """The marked share of the groups' units; marked: (deps.num_units,) bool."""
        return sum(int(np.count_nonzero(marked[group.units])) for group in self.groups) / self.num_units

    def prune_zeros(self) -> None:
        """Masks the units that are exactly zero."""
        self.set(~self._zero_units())

    def apply(self) -> None:
        """Sets what is pruned to zero now."""
        apply_masks(self.variables)

    def _zero_units(self) -> np.ndarray:
        """Units that are zero; a group that is all zeros is not pruned but has not been trained yet."""
        zero = self.deps.zero_units().copy()
        for group in self.groups:
            if zero[group.units].all():
                zero[group.units] = False
        return zero


class _GroupMasks:
    """The masks of one group's units."""

    def __init__(self, group: Group, deps: Dependencies) -> None:
        self.group = group
        place = np.full(deps.num_units + 1, -1)  # the last one for what is no unit
        place[group.units] = np.arange(len(group.units))
        all_kernels = {id(part.variable) for other in deps.groups for part in other.kernels}
        zeroed = [(part, place[part.units]) for part in deps.parts if part.zeroed]
        inside = [(part, places) for part, places in zeroed if (places >= 0).any()]
        self._kernels = [(p, places) for p, places in inside if id(p.variable) in all_kernels]
        self._others = [(p, places) for p, places in inside if id(p.variable) not in all_kernels]
        self.followers = list({id(part.variable): part.variable for part, _ in self._others}.values())
        self._followed: np.ndarray | None = None  # the units that the followers' masks keep

    def has_kernel(self, variable: Any) -> bool:
        """Whether a kernel makes units of the group."""
        return any(part.variable is variable for part, _ in self._kernels)

    def kept(self) -> np.ndarray:
        """(units of the group,) bool: those of which a kernel's mask keeps anything."""
        kept = np.zeros(len(self.group.units), bool)
        for part, places in self._kernels:
            mask = _mask(part.variable)
            other = tuple(i for i in range(len(part.variable.shape)) if i != part.axis)
            alive = np.ones(len(places), bool) if mask is None else mask.numpy().any(axis=other)
            np.logical_or.at(kept, places[places >= 0], alive[places >= 0])
        return kept

    def write(self, mask: np.ndarray, variable: Any, kept: np.ndarray) -> None:
        """Puts zeros into a kernel's mask where units are not kept; kept: of all the model's units."""
        for part, places in self._kernels:
            if part.variable is variable:
                gone = (places >= 0) & ~kept[part.units]
                np.moveaxis(mask, part.axis, 0)[gone] = 0

    def follow(self) -> None:
        """Masks what is no kernel as the kernels' masks are now, and sets it and moving means to zero."""
        kept = self.kept()
        changed = self._followed is None or not np.array_equal(kept, self._followed)
        for part, places in self._others:
            keep = np.ones(len(places), bool)
            keep[places >= 0] = kept[places[places >= 0]]
            mask = _mask(part.variable)
            if changed and mask is not None:
                new = mask.numpy()
                np.moveaxis(new, part.axis, 0)[places >= 0] = keep[places >= 0].reshape(-1, *[1] * (new.ndim - 1))
                mask.assign(new)
            _zero(part, keep)
        self._followed = kept

    def forget(self) -> None:
        """Masks may be other ones than before."""
        self._followed = None


class _Follow:
    """What follows one kernel's mask."""

    def __init__(self, groups: list[_GroupMasks]) -> None:
        self.parts = [group.follow for group in groups]

    def __call__(self) -> None:
        for part in self.parts:
            part()


def _mask(variable: Any) -> Any:
    return getattr(variable.constraint, "mask", None)


def _zero(part: Part, keep: np.ndarray) -> None:
    """Sets what is not kept of a variable to zero, if it is not; a look costs less than to write it."""
    values = part.variable.numpy()
    moved = np.moveaxis(values, part.axis, 0)
    if moved[~keep].any():
        moved[~keep] = 0
        part.variable.assign(values)


def _left(deps: Dependencies, kernels: dict[str, Any], model: Any) -> dict[str, str]:
    """Groups that stay whole, and why."""
    chosen = {id(variable) for variable in kernels.values()}
    names = {id(variable): path for path, variable in named(model, model.variables).items()}
    left = {}
    for group in deps.groups:
        missing = [part.variable for part in group.kernels if id(part.variable) not in chosen]
        if group.protected is not None:
            left[group.name] = group.protected
        elif missing:
            left[group.name] = _why_missing(missing, names)
            if len(missing) < len(group.kernels):
                logging.warning(
                    "keras_prune: the channels of %s stay, for %s; they go in all layers that they join, or in none.",
                    *(group.name, left[group.name]),
                )
    return left


def _why_missing(missing: Iterable[Any], names: dict[int, str]) -> str:
    reasons = (f"{names[id(v)]} is {'not chosen' if v.trainable else 'not trainable'}" for v in missing)
    return ", ".join(dict.fromkeys(reasons))
