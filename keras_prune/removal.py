"""Units away a few at a time until a target is met: the steps of `Greedy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

import keras_prune
from keras_prune.channels import UnitMasks
from keras_prune.layer_costs.units import channel_costs
from keras_prune.schedules import Greedy
from keras_prune.targets import Target
from keras_prune.unit_selection import together

# (units,) bool of what is kept -> what is left of the dense model's quantity, in (0, 1].
Left = Callable[[np.ndarray], float]


class Removal:
    """Which units go next, and whether the target is met.

    Args:
        masks: the units.
        greedy: how many go at once, and the target.
        left: what kept units leave of the target's quantity.

    Attributes:
        masks: the units.
        left: what is left of the quantity now, as a fraction of the dense model's.
        done: whether no more units go.

    Raises:
        ValueError: the target cannot be reached, whatever goes.
    """

    def __init__(self, masks: UnitMasks, greedy: Greedy, left: Left) -> None:
        self.masks = masks
        self._greedy = greedy
        self._left = left
        self._measured = greedy.target.quantity == "latency"
        if not self._measured:
            self._check_reachable()
        self.left = 1.0
        self.done = False
        self.look()

    @property
    def target(self) -> Target:
        """When to stop."""
        return self._greedy.target

    @property
    def logs(self) -> dict[str, float]:
        """What is left, under the quantity's name."""
        return {self.target.quantity: self.left}

    def look(self) -> None:
        """Takes the masks as they are now."""
        self.left = self._left(self.masks.kept)
        self.done = self.left <= self.target.fraction

    def next(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The units that are kept after the next removal; `removed` is to be called when these have their masks.

        Args:
            scores: group -> normalised scores of its units.

        Returns:
            (units of the model,) bool.
        """
        kept, ranks = self.masks.kept, together(self.masks, scores)
        order = self._order(scores, kept)

        def without(count: int) -> np.ndarray:
            removed = ~kept
            removed[order[:count]] = True
            return self.masks.deps.keep(removed, ranks)

        most = int(np.count_nonzero(kept)) - self._greedy.num_units
        count = _first(lambda count: int(np.count_nonzero(without(count))) <= most, len(order))
        if not self._measured:
            fraction = self.target.fraction
            count = _first(lambda count: self._left(without(count)) <= fraction, count)
        return without(count)

    def removed(self, before: np.ndarray) -> None:
        """Units have been pruned.

        Args:
            before: (units of the model,) bool: what was kept before.
        """
        if not np.array_equal(before, self.masks.kept):
            self.look()
        else:
            self.done = True
            logging.warning(
                "Greedy: no more units may go, and %.4f of the dense model's %s is left, not %.4f; training goes on "
                "without removals. Give a larger fraction, or Channel() a smaller minimum or round_to.",
                *(self.left, self.target.quantity, self.target.fraction),
            )

    def warn(self, name: str, step: int) -> None:
        """Says that training has ended before the target is met, if that is so."""
        if not self.done:
            logging.warning(
                "%s: training ended after step %d, before the target: %.4f of the dense model's %s is left, not %.4f. "
                "Train longer (another fit with this callback continues), or remove more units at once.",
                *(name, step, self.left, self.target.quantity, self.target.fraction),
            )

    def _order(self, scores: Mapping[str, np.ndarray], kept: np.ndarray) -> np.ndarray:
        """Numbers of the units that may go, the least first; the best of each group stay, as many as its minimum."""
        units, values = [], []
        for group in self.masks.groups:
            alive = kept[group.units]
            order = np.argsort(scores[group.name][alive], kind="stable")
            may_go = order[: max(0, len(order) - self.masks.deps.minimum)]
            units.append(group.units[alive][may_go])
            values.append(scores[group.name][alive][may_go])
        return np.concatenate(units)[np.argsort(np.concatenate(values), kind="stable")]

    def _check_reachable(self) -> None:
        """Raises ValueError if the smallest model costs more than the target."""
        removed = np.zeros(self.masks.deps.num_units, bool)
        for group in self.masks.groups:
            removed[group.units] = True
        target, least = self.target, self._left(self.masks.deps.keep(removed))
        if least > target.fraction:
            raise ValueError(
                f"Greedy: expected a target that can be reached, got {target!r}: with all units gone that may go "
                f"{least:.4f} of the dense model's {target.quantity} is left; give a larger fraction, choose more "
                "layers, or give Channel() less protected, a smaller minimum or round_to"
            )


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The smallest count in [0, most] for which something holds that holds from some count on; else `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def make_removal(model: Any, masks: Any, greedy: Greedy) -> Removal:
    """The steps of a greedy schedule on a model.

    Args:
        model: what is pruned.
        masks: its masks.
        greedy: the schedule.

    Raises:
        ValueError: masks of kernels, or a target that cannot be reached.
    """
    if not isinstance(masks, UnitMasks):
        raise ValueError(
            "Greedy: expected pattern=Channel() and a Sequential or functional model, whose units it removes one "
            "after another, got masks of single kernels; give another schedule, such as PolynomialDecay()"
        )
    return Removal(masks, greedy, _left_of(model, masks, greedy.target))


def _left_of(model: Any, masks: UnitMasks, target: Target) -> Left:
    """What kept units leave of a quantity, as a fraction of the dense model's."""
    if target.quantity == "units":
        return masks.fraction
    if target.measure is not None:
        return _Latency(model, target.measure, num_units=masks.deps.num_units, exact=masks.deps.trace.exact)
    costs = channel_costs(model, masks.deps)
    dense = costs.totals()[target.quantity]
    return lambda kept: costs.totals(kept)[target.quantity] / dense


class _Latency:
    """Seconds of the model without the units that are zero now, measured, against those of the dense one."""

    def __init__(self, model: Any, measure: Callable[[Any], float], *, num_units: int, exact: bool) -> None:
        self._model = model
        self._measure = measure
        self._exact = exact
        # All units stay, for zeros take time like other numbers; a copy, for layers in training hold what gathers.
        self._dense = measure(self._shrunk(minimum=num_units))
        self._known: tuple[bytes, float] | None = None  # of the last masks

    def __call__(self, kept: np.ndarray) -> float:
        """`kept` is what the model's masks keep."""
        key = np.packbits(kept).tobytes()
        if self._known is None or self._known[0] != key:
            left = 1.0 if kept.all() else self._measure(self._shrunk()) / self._dense
            self._known = (key, left)
        return self._known[1]

    def _shrunk(self, minimum: int = 1) -> Any:
        return keras_prune.shrink(self._model, minimum=minimum, exact=self._exact)
