"""Units away a few at a time, until the model is as small or as fast as it shall be."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_prune.registry import lookup
from keras_prune.schedules.base import Schedule, check_fields
from keras_prune.targets import Target


@dataclasses.dataclass(frozen=True)
class Greedy(Schedule):
    """Removes the least units of all groups every few steps and trains on between, until a target is met.

    Before step ``begin_step + k * frequency``, k = 1, 2, ..., the ``num_units`` units with the lowest normalised scores
    are pruned; statistics are those of the steps since the last removal. The last removal takes as many units as the
    target needs and no more; from then on the masks stay, and training goes on. ``sparsity`` and the target's quantity,
    as a fraction of the dense model's, are in the logs.

    This is for ``pattern=Channel()`` on models that can be traced. All groups are ranked together: `Channel` says what
    is protected, how much each group keeps, and which counts it may have (with ``round_to`` more units go at once).

    Args:
        num_units: that are pruned at once, N, >= 1.
        frequency: training steps between two removals, K, >= 1.
        target: when to stop.
        begin_step: the batch after which counting begins, >= 0.

    Raises:
        TypeError: no target.
        ValueError: counts or steps that are no whole numbers.

    Example:
        >>> greedy = Greedy(10, frequency=30, target=Target("flops", 0.26))
        >>> [greedy.last_update(step) for step in (0, 29, 30, 95)]
        [None, None, 30, 90]

    Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference" (https://arxiv.org/abs/1611.06440), section 2: with the smallest ``num_units`` and the largest
    ``frequency`` that time allows it is best.
    """

    num_units: int = 1
    frequency: int = 30
    _: dataclasses.KW_ONLY
    target: Target
    begin_step: int = 0

    end_step = None
    final_sparsity = 0.0  # not known before
    steps_example = 'Greedy(10, frequency=30, target=Target("flops", 0.5))'

    def __post_init__(self) -> None:
        if isinstance(self.num_units, bool) or not isinstance(self.num_units, int) or self.num_units < 1:
            raise ValueError(f"Greedy.num_units: expected a whole number of units >= 1, got {self.num_units!r}")
        named = isinstance(self.target, str)  # a quantity, without how much of it
        target = self.target if named else lookup(self.target, (Target,), "target")
        if not isinstance(target, Target):
            raise TypeError(
                f"Greedy.target: expected what shall be left, such as Target('flops', 0.5), got {self.target!r}"
            )
        object.__setattr__(self, "target", target)
        if self.frequency is None or self.begin_step is None:
            raise ValueError("Greedy: expected a frequency and a begin_step, got None; leave them out for 30 and 0")
        check_fields(self)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        target = {"class_name": "Target", "config": self.target.get_config()}
        return {**super().get_config(), "target": target}

    def value(self, step: int) -> float:
        """Raises ValueError: how many units go is up to their costs."""
        raise ValueError(
            f"{self!r}: has no sparsity of its own at step {step}; give it to PruneCallback or Pruner with "
            "pattern=Channel() and a Sequential or functional model"
        )

    def last_update(self, step: int) -> int | None:
        """The latest step <= `step` at which units go, or None before the first."""
        done = (step - self.begin_step) // self.frequency
        return None if done < 1 else self.begin_step + done * self.frequency
