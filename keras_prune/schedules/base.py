"""What a schedule is: training step -> target sparsity, and the steps at which masks change."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from keras_prune.registry import Value


def check_sparsity(name: str, sparsity: Any) -> None:
    """Raises ValueError unless `sparsity` is a number in [0, 1)."""
    try:
        valid = not isinstance(sparsity, str) and 0.0 <= float(sparsity) < 1.0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"{name}: expected a sparsity (the fraction of zeros) from 0.0 up to but not including 1.0, "
            f"got {sparsity!r}; for 80 % zeros give 0.8"
        )


def check_step(name: str, step: Any, least: int = 0) -> int | None:
    """The step as an int; raises ValueError unless it is None or a whole number from `least` on."""
    if step is None:
        return None
    try:
        valid = not isinstance(step, (bool, str)) and int(step) == step and step >= least
    except (TypeError, ValueError, OverflowError):  # of other kinds, NaN, infinity
        valid = False
    if not valid:
        raise ValueError(f"{name}: expected a whole number of training steps (batches) >= {least}, got {step!r}")
    return int(step)


def check_fields(schedule: Any) -> None:
    """Checks a schedule's sparsities and steps by their names, and makes plain numbers of NumPy's, which JSON lacks.

    Raises:
        ValueError: a sparsity outside [0, 1), steps that are no whole numbers, or an end before the beginning.
    """
    for field in dataclasses.fields(schedule):
        name, value = f"{type(schedule).__name__}.{field.name}", getattr(schedule, field.name)
        if field.name.endswith("sparsity"):
            check_sparsity(name, value)
            object.__setattr__(schedule, field.name, float(value))
        elif field.name in ("begin_step", "end_step", "step"):
            object.__setattr__(schedule, field.name, check_step(name, value))
        elif field.name in ("frequency", "steps_per_round"):
            object.__setattr__(schedule, field.name, check_step(name, value, least=1))
    begin_step, end_step = schedule.begin_step, schedule.end_step
    if begin_step is not None and end_step is not None and end_step < begin_step:
        raise ValueError(
            f"{type(schedule).__name__}: expected end_step >= begin_step, got begin_step={begin_step} and "
            f"end_step={end_step}; steps are batches, counted from 0"
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
    steps_example = "PolynomialDecay(begin_step=0, end_step=1000)"  # for error messages

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


def steps_after(schedule: Schedule, begin_step: int, num_steps: int | None) -> int:
    """How many steps of the training follow `begin_step`."""
    name = type(schedule).__name__
    if num_steps is None:
        raise ValueError(
            f"{name}: expected data of known length to choose the schedule's steps, but this fit's number of "
            "steps is unknown (a generator or a dataset without cardinality); give fit(steps_per_epoch=...), or a "
            f"schedule with steps: {schedule.steps_example}"
        )
    if begin_step >= num_steps:
        raise ValueError(
            f"{name}: expected begin_step below the {num_steps} steps of this fit, got {begin_step}; "
            "begin earlier, train longer, or give the schedule all its steps if training goes on in a later fit"
        )
    return num_steps - begin_step
