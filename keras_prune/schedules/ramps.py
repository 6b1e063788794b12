"""Schedules that rise step by step."""

from __future__ import annotations

import dataclasses
import math
from typing import Self

from keras_prune.schedules.base import Schedule, check_fields, steps_after

# Masks that change about a hundred times follow the ramp closely and cost next to nothing.
_MAX_UPDATES = 100


@dataclasses.dataclass(frozen=True)
class _Ramp(Schedule):
    """A rise from one sparsity to another; a subclass says how, by `rise`."""

    initial_sparsity: float = 0.0
    final_sparsity: float = 0.8
    _: dataclasses.KW_ONLY
    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def rise(self, done: float) -> float:
        """The sparsity when this part of the ramp's steps is done, in (0, 1)."""
        raise NotImplementedError(f"{type(self).__name__} must define rise(done)")

    def value(self, step: int) -> float:
        """The target sparsity at a step."""
        if self.begin_step is None or self.end_step is None:
            raise ValueError(f"{self!r}: steps are still open; call resolve(num_steps) first")
        if step >= self.end_step:
            return self.final_sparsity
        if step <= self.begin_step:
            return self.initial_sparsity
        return self.rise((step - self.begin_step) / (self.end_step - self.begin_step))

    def resolve(self, num_steps: int | None) -> Self:
        """Chooses the steps that were left open; raises ValueError if that needs an unknown number of steps."""
        begin_step = 0 if self.begin_step is None else self.begin_step
        end_step = self.end_step
        if end_step is None:
            end_step = begin_step + max(1, steps_after(self, begin_step, num_steps) // 2)
        if end_step < begin_step:
            raise ValueError(f"{self!r}: expected end_step >= begin_step, which became {begin_step}")
        frequency = self.frequency or max(1, -(-(end_step - begin_step) // _MAX_UPDATES))
        return dataclasses.replace(self, begin_step=begin_step, end_step=end_step, frequency=frequency)


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(_Ramp):
    """Sparsity that rises quickly at first and slowly at the end.

    ``s(t) = s_f + (s_i - s_f) * (1 - (t - t_0) / (t_1 - t_0)) ** power``, with t kept between t_0 and t_1:
    Zhu and Gupta 2017, "To prune, or not to prune" (https://arxiv.org/abs/1710.01878).

    Args:
        initial_sparsity: s_i, in [0, 1).
        final_sparsity: s_f, in [0, 1).
        begin_step: t_0, the first batch with a mask; None: the first batch of training.
        end_step: t_1, the batch from which on the final sparsity holds; None: half of the training that follows
            ``begin_step``, so that the other half is fine-tuning.
        frequency: batches between two mask updates; None: about a hundred updates over the ramp.
        power: exponent, > 0.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or an end before the beginning.

    Example:
        >>> round(PolynomialDecay(final_sparsity=0.8, begin_step=0, end_step=100).value(50), 6)
        0.7
    """

    _: dataclasses.KW_ONLY
    power: float = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power > 0:
            raise ValueError(f"PolynomialDecay.power: expected a number > 0, got {self.power!r}")

    def rise(self, done: float) -> float:
        """The polynomial."""
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * (1 - done) ** self.power


@dataclasses.dataclass(frozen=True)
class ExponentialSparsity(_Ramp):
    """Density that decays exponentially: every mask update prunes the same share of the weights that are left.

    ``1 - s(t) = (1 - s_i) * ((1 - s_f) / (1 - s_i)) ** ((t - t_0) / (t_1 - t_0))``, with t kept between t_0 and t_1.
    Compared with `PolynomialDecay` it is quicker at first the higher the final sparsity is, and slower at the end.

    Not to be confused with Keras' ``ExponentialDecay``, a schedule of learning rates.

    Args:
        initial_sparsity: s_i, in [0, 1).
        final_sparsity: s_f, in [0, 1).
        begin_step: t_0, as in `PolynomialDecay`.
        end_step: t_1, as in `PolynomialDecay`.
        frequency: as in `PolynomialDecay`.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or an end before the beginning.

    Example:
        >>> round(ExponentialSparsity(final_sparsity=0.75, begin_step=0, end_step=100).value(50), 6)
        0.5

    Frankle and Carbin 2019, "The Lottery Ticket Hypothesis" (https://arxiv.org/abs/1803.03635), prunes like this.
    """

    def rise(self, done: float) -> float:
        """The density's decay, as a sparsity."""
        density = 1 - self.initial_sparsity
        return 1 - density * ((1 - self.final_sparsity) / density) ** done


@dataclasses.dataclass(frozen=True)
class CosineSparsity(_Ramp):
    """Sparsity that rises along half a cosine: slowly at first, quickly in the middle, slowly at the end.

    ``s(t) = s_f + (s_i - s_f) * (1 + cos(pi * (t - t_0) / (t_1 - t_0))) / 2``, with t kept between t_0 and t_1.

    Not to be confused with Keras' ``CosineDecay``, a schedule of learning rates, to which it is the counterpart.

    Args:
        initial_sparsity: s_i, in [0, 1).
        final_sparsity: s_f, in [0, 1).
        begin_step: t_0, as in `PolynomialDecay`.
        end_step: t_1, as in `PolynomialDecay`.
        frequency: as in `PolynomialDecay`.

    Raises:
        ValueError: a sparsity outside [0, 1), a negative step, or an end before the beginning.

    Example:
        >>> round(CosineSparsity(final_sparsity=0.8, begin_step=0, end_step=100).value(50), 6)
        0.4

    Loshchilov and Hutter 2017, "SGDR" (https://arxiv.org/abs/1608.03983), for the curve.
    """

    def rise(self, done: float) -> float:
        """Half a cosine."""
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * (1 + math.cos(math.pi * done)) / 2
