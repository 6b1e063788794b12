"""Where units lie in variables and tensors, and which are ranked with one another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Where units lie in a variable.

    Attributes:
        variable: a weight of the model.
        axis: >= 0.
        units: (shape[axis],) int: the unit that each index belongs to, -1: it always stays.
        zeroed: whether the places are zero when the unit is pruned (kernels' outputs, biases, scales and shifts); else
            the axis only shrinks with it (kernels' inputs, moving variances).
        kind: ``"kernel"``, ``"depthwise"``, ``"recurrent"``, ``"bias"``, ``"scale"``, ``"shift"``,
            ``"mean"`` or ``"follow"``.
        layer: path of the layer.
    """

    variable: Any
    axis: int
    units: np.ndarray
    zeroed: bool
    kind: str
    layer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """Where the activation of units can be observed.

    Attributes:
        layer: a layer whose (first) output has them.
        axis: of the output, negative.
        units: (shape[axis],) int, -1: of no unit.
        path: of the layer.
    """

    layer: Any
    axis: int
    units: np.ndarray
    path: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that the same layers make: they are ranked with one another.

    Attributes:
        name: of the layers that make them, joined with ``+``; with ``#2``, ... where that is taken.
        units: (n,) int, in the order of channels.
        kernels: the parts of kernels that make them.
        scales: the parts of batch normalizations' gammas.
        sites: where they are observed.
        width: channels that a unit has in a layer, >= 1.
        protected: why they may not be removed, or None.
    """

    name: str
    units: np.ndarray
    kernels: tuple[Part, ...]
    scales: tuple[Part, ...]
    sites: tuple[Site, ...]
    width: int
    protected: str | None
