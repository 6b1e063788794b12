"""Schedules that stay for long at one sparsity."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_prune.schedules.base import Schedule, check_fields, check_sparsity, check_step, steps_after


@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """The same target from the first update on: ``s(t) = target_sparsity``.

    Args:
        target_sparsity: in [0, 1).
        begin_step: the first batch with a mask.
        end_step: the batch of the last mask update, after which masks stay; None: no end.
        frequency: batches between two mask updates.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or an end before the beginning.

    Example:
        >>> ConstantSparsity(0.5, begin_step=10).last_update(250)
        210
    """

    target_sparsity: float = 0.8
    begin_step: int = 0
    _: dataclasses.KW_ONLY
    end_step: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        if self.begin_step is None or self.frequency is None:
            raise ValueError(
                f"ConstantSparsity: expected a begin_step and a frequency, got {self.begin_step!r} and "
                f"{self.frequency!r}; leave them out for 0 and 100"
            )
        check_fields(self)

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The target."""
        return self.target_sparsity

    def value(self, step: int) -> float:
        """The target sparsity at a step: the same at each."""
        del step
        return self.target_sparsity


@dataclasses.dataclass(frozen=True)
class OneShot(Schedule):
    """Everything at once: ``s(t) = 0`` before `step`, then `final_sparsity`, with masks that are made once.

    Train, prune, retrain; with ``step=0`` a trained model is pruned and retrained.

    Args:
        final_sparsity: in [0, 1).
        step: the batch before which masks are made; None: half of the training.

    Raises:
        ValueError: a sparsity outside [0, 1), or a negative step.

    Example:
        >>> [OneShot(0.8, step=3).value(t) for t in range(5)]
        [0.0, 0.0, 0.0, 0.8, 0.8]

    Han et al. 2015 (https://arxiv.org/abs/1506.02626), section 3, without the rounds.
    """

    final_sparsity: float = 0.8
    step: int | None = None

    frequency = 1
    steps_example = "OneShot(0.8, step=1000)"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def begin_step(self) -> int | None:  # type: ignore[override]
        """The step."""
        return self.step

    @property
    def end_step(self) -> int | None:  # type: ignore[override]
        """The step."""
        return self.step

    def value(self, step: int) -> float:
        """The target sparsity at a step."""
        if self.step is None:
            raise ValueError(f"{self!r}: steps are still open; call resolve(num_steps) first")
        return self.final_sparsity if step >= self.step else 0.0

    def resolve(self, num_steps: int | None) -> OneShot:
        """Chooses the step, if it was left open."""
        return self if self.step is not None else dataclasses.replace(self, step=steps_after(self, 0, num_steps) // 2)


@dataclasses.dataclass(frozen=True)
class StepTable(Schedule):
    """A table: ``s(t)`` is the sparsity of the last step in it that is <= t, and 0 before the first.

    Masks change at the steps of the table, and at no others. The sparsity may fall too: weights then come back.

    Args:
        table: step (batch, counted from 0) -> sparsity in [0, 1).

    Raises:
        ValueError: an empty table, a negative step, or a sparsity outside [0, 1).

    Example:
        >>> schedule = StepTable({10: 0.5, 20: 0.8})
        >>> [schedule.value(t) for t in (0, 10, 19, 20, 99)]
        [0.0, 0.5, 0.5, 0.8, 0.8]
    """

    table: Mapping[int, float]

    frequency = None

    def __post_init__(self) -> None:
        if not isinstance(self.table, Mapping) or not self.table:
            raise ValueError(f"StepTable: expected {{step: sparsity, ...}} with a step or more, got {self.table!r}")
        table = {}
        for key, sparsity in self.table.items():
            is_digits = isinstance(key, str) and key.isdecimal()  # JSON's keys are text
            step = check_step("StepTable", int(key) if is_digits else key)
            check_sparsity(f"StepTable[{step}]", sparsity)
            table[step] = float(sparsity)
        object.__setattr__(self, "table", dict(sorted(table.items())))

    def get_config(self) -> dict[str, Any]:
        """The table, with steps as text, as JSON has them."""
        return {"table": {str(step): sparsity for step, sparsity in self.table.items()}}

    @property
    def begin_step(self) -> int:  # type: ignore[override]
        """The first step."""
        return next(iter(self.table))

    @property
    def end_step(self) -> int:  # type: ignore[override]
        """The last step."""
        return list(self.table)[-1]

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The sparsity at the last step."""
        return self.table[self.end_step]

    def value(self, step: int) -> float:
        """The target sparsity at a step."""
        update = self.last_update(step)
        return 0.0 if update is None else self.table[update]

    def last_update(self, step: int) -> int | None:
        """The table's last step that is <= `step`."""
        return max((t for t in self.table if t <= step), default=None)


@dataclasses.dataclass(frozen=True)
class PruningRounds(Schedule):
    """Rounds of pruning and retraining, as Han does: each round prunes the same share of the weights that are left.

    ``1 - s_k = (1 - s_i) * ((1 - s_f) / (1 - s_i)) ** (k / n)`` in round k = 1 ... n. Round k begins with its masks at
    step ``begin_step + (k - 1) * steps_per_round`` and retrains for the rest of its steps.

    This is for one ``fit``. `iterative_prune` runs rounds with a lower learning rate and an end when progress stops.

    Args:
        final_sparsity: s_f, of the last round, in [0, 1).
        num_rounds: n, >= 1.
        initial_sparsity: s_i, before the first round, in [0, 1).
        begin_step: the batch with which the first round begins; None: the first batch of training.
        steps_per_round: batches in each round; None: what follows ``begin_step`` is divided equally.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or no rounds.

    Example:
        >>> PruningRounds(0.875, 3, steps_per_round=100).sparsities
        (0.5, 0.75, 0.875)

    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks"
    (https://arxiv.org/abs/1506.02626).
    """

    final_sparsity: float = 0.8
    num_rounds: int = 5
    _: dataclasses.KW_ONLY
    initial_sparsity: float = 0.0
    begin_step: int | None = None
    steps_per_round: int | None = None

    steps_example = "PruningRounds(0.8, 5, steps_per_round=1000)"

    def __post_init__(self) -> None:
        if isinstance(self.num_rounds, bool) or not isinstance(self.num_rounds, int) or self.num_rounds < 1:
            raise ValueError(f"PruningRounds.num_rounds: expected a whole number >= 1, got {self.num_rounds!r}")
        check_fields(self)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The target of each round."""
        density, final = 1 - self.initial_sparsity, 1 - self.final_sparsity
        shares = [k / self.num_rounds for k in range(1, self.num_rounds)]
        return (*(1 - density * (final / density) ** share for share in shares), self.final_sparsity)

    @property
    def frequency(self) -> int | None:  # type: ignore[override]
        """The steps of a round."""
        return self.steps_per_round

    @property
    def end_step(self) -> int | None:  # type: ignore[override]
        """The beginning of the last round."""
        if self.begin_step is None or self.steps_per_round is None:
            return None
        return self.begin_step + (self.num_rounds - 1) * self.steps_per_round

    def value(self, step: int) -> float:
        """The target sparsity at a step: that of its round."""
        update = self.last_update(step)
        if update is None or self.begin_step is None or self.steps_per_round is None:
            return self.initial_sparsity
        return self.sparsities[(update - self.begin_step) // self.steps_per_round]

    def resolve(self, num_steps: int | None) -> PruningRounds:
        """Chooses the steps that were left open; raises ValueError if that needs an unknown number of steps."""
        begin_step = 0 if self.begin_step is None else self.begin_step
        steps = self.steps_per_round or max(1, steps_after(self, begin_step, num_steps) // self.num_rounds)
        return dataclasses.replace(self, begin_step=begin_step, steps_per_round=steps)
