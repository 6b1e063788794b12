"""Scores that count what a unit costs: between two units that matter alike the dearer one goes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from keras_prune import criteria
from keras_prune.channels import UnitMasks
from keras_prune.criteria import Criterion
from keras_prune.latency_table import LatencyTable, slopes
from keras_prune.layer_costs.units import QUANTITIES, channel_costs
from keras_prune.registry import lookup


@dataclasses.dataclass(frozen=True)
class Regularized(Criterion):
    """``score = normalised score of the criterion - strength * share of the cost``.

    The normalised score is the criterion's, divided by the l2 norm of its group. The share of a unit is what the dense
    model saves without it, divided by what the dense model costs. All groups have to compete for the cost to matter:
    ``allocation="global"``, or the schedule `Greedy`.

    Args:
        criterion: what makes a unit matter: a criterion or its name.
        cost: ``"flops"``, ``"macs"``, ``"parameters"``, ``"bytes"`` (of the weights), ``"activations"``, ``"memory"``
            (bytes of weights and activations), ``"bandwidth"`` (bytes read and written), or a `LatencyTable` that was
            measured, whose slope at the present number of channels is the unit's cost.
        strength: lambda, >= 0. The paper's 0.001 for each million FLOPs is 31 on VGG-16 (31 GFLOPs): multiply by the
            millions of FLOPs of the dense model.

    Raises:
        TypeError: no criterion.
        ValueError: an unknown cost, a strength below 0, or (when used) a group that the table does not have.

    Example:
        >>> Regularized("taylor", "flops", 2.0).strength
        2.0

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2.2.
    """

    criterion: Any = "taylor"
    cost: Any = "flops"
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "criterion", criteria.get(self.criterion))
        cost = lookup(self.cost, (LatencyTable,), "cost") if isinstance(self.cost, dict) else self.cost
        if not isinstance(cost, LatencyTable) and cost not in QUANTITIES:
            names = ", ".join(map(repr, QUANTITIES))
            raise ValueError(f"Regularized.cost: expected one of {names} or a LatencyTable, got {self.cost!r}")
        object.__setattr__(self, "cost", cost)
        number = isinstance(self.strength, (int, float)) and not isinstance(self.strength, bool)
        if not number or not 0 <= self.strength < math.inf:
            raise ValueError(f"Regularized.strength: expected a finite number >= 0, got {self.strength!r}")

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {"criterion": _config(self.criterion), "cost": _config(self.cost), "strength": self.strength}

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Raises ValueError: single weights have no cost of their own."""
        raise ValueError(
            f"Regularized: expected units, got single weights of shape {weights.shape}; give pattern=Channel() and a "
            "Sequential or functional model"
        )


def _config(value: Any) -> Any:
    """An object's name and arguments; other values as they are."""
    if not hasattr(value, "get_config"):
        return value
    return {"class_name": type(value).__name__, "config": value.get_config()}


def scoring(criterion: Any) -> Any:
    """What makes a unit matter, its cost aside: the criterion in `Regularized`, or itself."""
    return criterion.criterion if isinstance(criterion, Regularized) else criterion


class CostShares:
    """Each unit's share of the model's cost.

    Args:
        model: with the units.
        masks: of the units.
        cost: a quantity, or a table.

    Raises:
        ValueError: a group that the table does not have, or layers whose operations are unknown.
    """

    def __init__(self, model: Any, masks: UnitMasks, cost: str | LatencyTable) -> None:
        self._masks = masks
        self._table = cost if isinstance(cost, LatencyTable) else None
        self._shares = np.zeros(masks.deps.num_units)
        if isinstance(cost, LatencyTable):
            self._measured(cost, masks.kept)
        else:
            found = channel_costs(model, masks.deps)
            self._shares = found.units()[cost] / max(1, found.totals()[cost])

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        """(units of the model,) float, of a model that keeps these units, (units of the model,) bool."""
        return self._shares if self._table is None else self._measured(self._table, kept)

    def _measured(self, table: LatencyTable, kept: np.ndarray) -> np.ndarray:
        shares = np.zeros(len(kept))
        for group in self._masks.groups:
            names = [name.removesuffix("/kernel") for name in self._masks.names[group.name]]
            slope = slopes(table, names, group.width * int(np.count_nonzero(kept[group.units])))
            if slope is None:
                raise ValueError(
                    f"LatencyTable: expected seconds for {group.name!r} or one of its layers, got those of "
                    f"{', '.join(table.layers)}; measure it too, or protect it: Channel(protected=...)"
                )
            shares[group.units] = slope * group.width / table.total
        return shares
