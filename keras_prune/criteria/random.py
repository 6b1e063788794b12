"""Chance: the baseline that every criterion must beat."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from keras_prune.criteria.base import Criterion


@dataclasses.dataclass(frozen=True)
class Random(Criterion):
    """``score ~ U(0, 1)``, the same in every call; ``score - 1`` where the weight is zero.

    Each variable has its own order of weights, which depends on `seed`, its path and its shape only. So masks at rising
    sparsity are nested, and the same in every run; what is pruned stays pruned. Units have one random number each.

    Args:
        seed: whole number, >= 0.
        path: the variable's path, or the name of a group of units, which pruning fills in.

    Example:
        >>> import numpy as np
        >>> Random(1)(np.array([5.0, 5.0, 0.0])).argsort().tolist()
        [2, 0, 1]
    """

    seed: int = 0
    path: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"Random.seed: expected a whole number >= 0, got {self.seed!r}")

    def of(self, path: str) -> Random:
        """The order of the variable at this path."""
        return dataclasses.replace(self, path=path)

    def __call__(self, weights: np.ndarray, statistic: np.ndarray | None = None) -> np.ndarray:
        """Random numbers, same shape, float32."""
        del statistic
        return self._numbers(weights.shape) - (weights == 0)

    def score_units(self, kernels: Sequence[np.ndarray], scales: Sequence[np.ndarray]) -> np.ndarray:
        """Random numbers, (units,), float32."""
        del scales
        return self._numbers((len(kernels[0]),))

    def _numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        # Not Python's own hash, which differs from run to run.
        generator = np.random.default_rng([self.seed, zlib.crc32(self.path.encode())])
        return generator.random(shape, np.float32)
