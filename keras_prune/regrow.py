"""Regrowing: at each change of masks some kept weights give their places to pruned ones. Pure NumPy.

The count of kept weights stays, so the sparsity is the schedule's. Grown weights begin at zero.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any, ClassVar

import numpy as np

from keras_prune.patterns import Balanced, NByM, Pattern, Unstructured
from keras_prune.registry import Value, lookup
from keras_prune.selection import select_highest


class Regrow(Value):
    """Base of ways to regrow: which of the pruned units come back is up to `grow`.

    Attributes:
        gathers: whether `grow` needs gradients; `gather` is then called in every training step, as a criterion's is.
        resets: whether the mean of what was gathered begins anew after each change of masks.
    """

    gathers: ClassVar[bool] = False
    resets: ClassVar[bool] = True

    fraction: float

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(
                f"{type(self).__name__}.fraction: expected the fraction of kept weights that is replaced, from 0 to 1, "
                f"got {self.fraction!r}"
            )

    def gather(self, weights: Any, gradient: Any) -> Any:
        """What to average over training steps: the gradient, as a tensor of the weights' shape."""
        del weights
        return gradient

    def grow(self, size: int, statistic: np.ndarray | None, seed: tuple[int, ...]) -> np.ndarray:
        """How much each weight wants to come back, (size,) float; higher first."""
        raise NotImplementedError(f"{type(self).__name__} must define grow(size, statistic, seed)")

    def fraction_at(self, done: float) -> float:
        """The fraction when this part of the schedule is done: ``fraction * (1 + cos(pi * done)) / 2``.

        Args:
            done: from 0 at the schedule's begin_step to 1 at its end_step; without an end 0.
        """
        return self.fraction * (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2

    def update(
        self,
        mask: np.ndarray,
        weights: np.ndarray,
        statistic: np.ndarray | None = None,
        *,
        fraction: float | None = None,
        pattern: Pattern | None = None,
        seed: tuple[int | str, ...] = (),
    ) -> np.ndarray:
        """Drops the kept units of the smallest magnitude and grows as many of the others, which may be the same ones.

        Args:
            mask: any shape, uint8, 1 = kept.
            weights: same shape, float; pruned ones are zero.
            statistic: same shape: the mean of what `gather` returned; None where `gathers` is False.
            fraction: of the kept units that is dropped, in [0, 1]; None: `self.fraction`.
            pattern: which weights form a unit; None: each by itself.
            seed: numbers and names that tell this update from others: the step, the weight's path. The same seed gives
                the same mask, so that an interrupted training can go on as it would have.

        Returns:
            Mask of the same shape with as many units kept, uint8.

        Raises:
            ValueError: no statistic where one is needed, or a pattern that binds weights to exact counts.
        """
        pattern = pattern or Unstructured()
        check_pattern(pattern)
        if self.gathers and statistic is None:
            name = type(self).__name__
            raise ValueError(f"{name}: expected the mean gradient of all weights as statistic, got None")
        kept = pattern.pool(mask.astype(np.float32)) > 0
        num_kept = int(np.count_nonzero(kept))
        num_dropped = round((self.fraction if fraction is None else fraction) * num_kept)
        magnitudes = np.where(kept, pattern.pool(np.abs(weights)), -1.0)
        stays = select_highest(magnitudes, num_kept - num_dropped)
        pooled = None if statistic is None else pattern.pool(np.abs(statistic))
        hashed = tuple(zlib.crc32(str(part).encode()) for part in seed)
        grows = np.where(stays, -np.inf, self.grow(len(kept), pooled, hashed))
        grown = select_highest(grows, num_dropped)
        return np.ascontiguousarray(pattern.spread((stays | grown).view(np.uint8), mask.shape))


@dataclasses.dataclass(frozen=True)
class SET(Regrow):
    """Sparse evolutionary training: the smallest of the kept weights make place for others, chosen by chance.

    Args:
        fraction: zeta, of the kept weights that is replaced at the first change, in [0, 1]; it falls along half a
            cosine to 0 at the schedule's end (the paper keeps it constant, as does a schedule without an end).
        seed: whole number, >= 0.

    Raises:
        ValueError: a fraction outside [0, 1].

    Example:
        >>> import numpy as np
        >>> mask = SET(0.5).update(np.array([1, 1, 0, 0], np.uint8), np.array([3.0, 1.0, 0.0, 0.0]))
        >>> int(mask[0]), int(mask.sum())
        (1, 2)

    Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
    network science" (https://arxiv.org/abs/1707.04780).
    """

    fraction: float = 0.3
    seed: int = 0

    def grow(self, size: int, statistic: np.ndarray | None, seed: tuple[int, ...]) -> np.ndarray:
        """Random numbers."""
        del statistic
        return np.random.default_rng([self.seed, *seed]).random(size, np.float32)


@dataclasses.dataclass(frozen=True)
class RigL(Regrow):
    """The rigged lottery: the smallest of the kept weights make place for those with the largest gradients.

    The gradient is the mean over the training steps since the last change of masks (the paper takes that of one batch),
    with respect to all weights, pruned ones too.

    Args:
        fraction: alpha, of the kept weights that is replaced at the first change, in [0, 1]; it falls along half a
            cosine to 0 at the schedule's end.

    Raises:
        ValueError: a fraction outside [0, 1].

    Example:
        >>> import numpy as np
        >>> mask, weights = np.array([1, 1, 0, 0], np.uint8), np.array([3.0, 1.0, 0.0, 0.0])
        >>> RigL(0.5).update(mask, weights, np.array([0.0, 0.1, 0.5, -0.9])).tolist()
        [1, 0, 0, 1]

    Evci, Gale, Menick, Castro and Elsen 2020, "Rigging the Lottery" (https://arxiv.org/abs/1911.11134).
    """

    fraction: float = 0.3

    gathers: ClassVar[bool] = True

    def grow(self, size: int, statistic: np.ndarray | None, seed: tuple[int, ...]) -> np.ndarray:
        """The gradients' magnitudes."""
        del size, seed
        assert statistic is not None  # update checks it
        return statistic


KNOWN = (SET, RigL)


def check_pattern(pattern: Pattern) -> None:
    """Raises ValueError for a pattern in which units cannot change places freely."""
    if isinstance(pattern, (NByM, Balanced)):
        raise ValueError(
            f"regrow: expected a pattern of free units (Unstructured, Block, Channel), got {pattern!r}, whose exact "
            "counts it would break"
        )


def get(identifier: Any) -> Regrow:
    """A way to regrow from its name, class, configuration, or itself; raises if it is none."""
    regrow = lookup(identifier, KNOWN, "regrow")
    if not isinstance(regrow, Regrow):
        hint = f"; did you mean SET(fraction={regrow}) or RigL(...)?" if isinstance(regrow, float) else ""
        raise TypeError(f"regrow: expected SET, RigL or a name of theirs, got {regrow!r}{hint}")
    return regrow
