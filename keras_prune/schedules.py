"""Schedules: training step -> target sparsity, and the steps at which masks change. Pure values."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from keras_prune.registry import Value, lookup

# Masks that change about a hundred times follow the ramp closely and cost next to nothing.
_MAX_UPDATES = 100


def check_sparsity(name: str, sparsity: Any) -> None:
    """Raises ValueError unless `sparsity` is a number in [0, 1)."""
    try:
        valid = 0.0 <= float(sparsity) < 1.0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{name}: expected a sparsity (the fraction of zeros) from 0.0 up to but not including 1.0, "
            f"got {sparsity!r}; for 80 % zeros give 0.8"
        )


def _check_step(name: str, step: Any, least: int = 0) -> None:
    if step is not None and (isinstance(step, bool) or int(step) != step or step < least):
        raise ValueError(f"{name}: expected a whole number of training steps (batches) >= {least}, got {step!r}")


def _check_steps(schedule: Schedule) -> None:
    name, begin_step, end_step = type(schedule).__name__, schedule.begin_step, schedule.end_step
    _check_step(f"{name}.begin_step", begin_step)
    _check_step(f"{name}.end_step", end_step)
    _check_step(f"{name}.frequency", schedule.frequency, least=1)
    if begin_step is not None and end_step is not None and end_step < begin_step:
        raise ValueError(
            f"{name}: expected end_step >= begin_step, got begin_step={begin_step} and end_step={end_step}; "
            "steps are batches, counted from 0"
        )


class Schedule(Value):
    """Base of schedules: how sparse the model shall be at each training step, and when masks change.

    A subclass defines `value`, and the attributes ``begin_step``, ``end_step`` (None: no end), ``frequency`` and
    ``final_sparsity``. Step t is the t-th batch, counted from 0: masks of step t are made before that batch.
    """

    begin_step: int | None
    end_step: int | None
    frequency: int | None
    final_sparsity: float

    def value(self, step: int) -> float:
        """The target sparsity at a step, in [0, 1)."""
        raise NotImplementedError(f"{type(self).__name__} must define value(step)")

    def resolve(self, num_steps: int | None) -> Self:
        """The schedule with every step that was left open chosen for a training of `num_steps` batches."""
        del num_steps
        return self

    def last_update(self, step: int) -> int | None:
        """The latest step <= `step` at which masks change, or None before the first.

        Masks change at ``begin_step``, then every ``frequency`` steps up to ``end_step``, and at ``end_step`` itself,
        so that the final target is always met (TFMOT misses it where the frequency does not divide the ramp).
        """
        if self.begin_step is None or self.frequency is None:
            raise ValueError(f"{self!r}: steps are still open; call resolve(num_steps) first")
        if step < self.begin_step:
            return None
        if self.end_step is not None and step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency

    def is_update(self, step: int) -> bool:
        """Whether masks change at this step."""
        return self.last_update(step) == step


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """Sparsity that rises quickly at first and slowly at the end.

    ``s(t) = s_f + (s_i - s_f) * (1 - (t - t_0) / (t_1 - t_0)) ** power``, with t kept between t_0 and t_1:
    Zhu and Gupta 2017, "To prune, or not to prune" (https://arxiv.org/abs/1710.01878).

    Args:
        initial_sparsity: s_i, in [0, 1).
        final_sparsity: s_f, in [0, 1).
        begin_step: t_0, the first batch with a mask; None: the first batch of training.
        end_step: t_1, the batch from which on the final sparsity holds; None: half of the training that follows
            ``begin_step``, so that the other half is fine-tuning.
        power: exponent, > 0.
        frequency: batches between two mask updates; None: about a hundred updates over the ramp.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or an end before the beginning.

    Example:
        >>> PolynomialDecay(final_sparsity=0.8, begin_step=0, end_step=100).value(50)
        0.7
    """

    initial_sparsity: float = 0.0
    final_sparsity: float = 0.8
    _: dataclasses.KW_ONLY
    begin_step: int | None = None
    end_step: int | None = None
    power: float = 3
    frequency: int | None = None

    def __post_init__(self) -> None:
        check_sparsity("PolynomialDecay.initial_sparsity", self.initial_sparsity)
        check_sparsity("PolynomialDecay.final_sparsity", self.final_sparsity)
        _check_steps(self)
        if not self.power > 0:
            raise ValueError(f"PolynomialDecay.power: expected a number > 0, got {self.power!r}")

    def value(self, step: int) -> float:
        """The target sparsity at a step."""
        if self.begin_step is None or self.end_step is None:
            raise ValueError(f"{self!r}: steps are still open; call resolve(num_steps) first")
        if step < self.begin_step:
            return self.initial_sparsity
        if step >= self.end_step:
            return self.final_sparsity
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * (1 - done) ** self.power

    def resolve(self, num_steps: int | None) -> PolynomialDecay:
        """Chooses the steps that were left open; raises ValueError if that needs an unknown number of steps."""
        begin_step = 0 if self.begin_step is None else self.begin_step
        end_step = self.end_step
        if end_step is None:
            end_step = begin_step + _half_of_the_rest(begin_step, num_steps)
        if end_step < begin_step:
            raise ValueError(f"{self!r}: expected end_step >= begin_step, which became {begin_step}")
        frequency = self.frequency or max(1, -(-(end_step - begin_step) // _MAX_UPDATES))
        return dataclasses.replace(self, begin_step=begin_step, end_step=end_step, frequency=frequency)


def _half_of_the_rest(begin_step: int, num_steps: int | None) -> int:
    if num_steps is None:
        raise ValueError(
            "PolynomialDecay: expected data of known length to choose the ramp's end_step, but this fit's number of "
            "steps is unknown (a generator or a dataset without cardinality); give fit(steps_per_epoch=...), or a "
            "schedule with steps: PolynomialDecay(begin_step=0, end_step=1000)"
        )
    if begin_step >= num_steps:
        raise ValueError(
            f"PolynomialDecay: expected begin_step below the {num_steps} steps of this fit, got {begin_step}; "
            "begin earlier, train longer, or give end_step too if training goes on in a later fit"
        )
    return max(1, (num_steps - begin_step) // 2)


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
        check_sparsity("ConstantSparsity.target_sparsity", self.target_sparsity)
        _check_steps(self)

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The target."""
        return self.target_sparsity

    def value(self, step: int) -> float:
        """The target sparsity at a step: the same at each."""
        del step
        return self.target_sparsity


def get(identifier: Any) -> Schedule:
    """A schedule from its name, class, configuration, or itself; raises if it is none."""
    schedule = lookup(identifier, (PolynomialDecay, ConstantSparsity), "schedule")
    if not isinstance(schedule, Schedule):
        hint = f"; did you mean PolynomialDecay(final_sparsity={schedule})?" if isinstance(schedule, float) else ""
        raise TypeError(f"schedule: expected a keras_prune schedule or its name, got {schedule!r}{hint}")
    return schedule
