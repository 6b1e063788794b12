"""N of M consecutive inputs."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prune.kernel_axes import OutputAxes, from_rows, standardize_axes, to_rows
from keras_prune.patterns.base import Pattern, is_count
from keras_prune.selection import kept_count, select_highest, select_highest_of_rows


@dataclasses.dataclass(frozen=True)
class NByM(Pattern):
    """At most `n` kept of each `m` consecutive inputs of one output, in the packed order: ``NByM(2, 4)`` is 2:4.

    While the sparsity rises to ``1 - n / m`` the lowest of those weights are pruned that are not among the n highest
    of their group; at ``1 - n / m`` each group keeps exactly n. More cannot be asked of it: give this sparsity as the
    final one. The last group of a row, of r < m weights, keeps ``ceil(r * n / m)``.

    Where m divides a convolution's input channels, groups are TFMOT's: m input channels at one kernel position. Where
    it does not, as in a first convolution of 1, 2 or 3 channels, groups go on to the next position, while TFMOT pads
    the channels and then prunes little or nothing (tensorflow/model-optimization #1182).

    Args:
        n: kept in each group, >= 1.
        m: size of a group, > n.
        output_axes: the kernel's axes that count outputs; None: those of its layer, as `layer_axes` knows them: -2
            for transposed convolutions, (-2, -1) for depthwise ones and attention's query, key and value, by the
            equation for `EinsumDense`, and -1 for others and for an array by itself.

    Raises:
        ValueError: n not in 1 .. m - 1, or (when used) a sparsity above 1 - n / m.

    Example:
        >>> import numpy as np
        >>> NByM(2, 4).keep(np.array([[4.0], [1.0], [3.0], [2.0]]), 0.5).ravel().tolist()
        [1, 0, 1, 0]

    Zhou et al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
    (https://arxiv.org/abs/2102.04010).
    """

    n: int = 2
    m: int = 4
    output_axes: OutputAxes | None = None

    def __post_init__(self) -> None:
        if not (is_count(self.n) and is_count(self.m) and self.n < self.m):
            raise ValueError(
                f"NByM: expected n kept of m, whole numbers with 1 <= n < m, such as NByM(2, 4), "
                f"got n={self.n!r} and m={self.m!r}"
            )
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores in row-major order; infinite for the n highest of each group."""
        rows = to_rows(scores, self.output_axes)
        full = rows.shape[1] // self.m * self.m
        protected = np.empty(rows.shape, bool)
        groups = rows[:, :full].reshape(-1, self.m)
        protected[:, :full] = select_highest_of_rows(groups, self.n).reshape(len(rows), full)
        rest = rows.shape[1] - full
        if rest:
            protected[:, full:] = select_highest_of_rows(rows[:, full:], -(-rest * self.n // self.m))
        infinite = scores.dtype.type(np.inf)
        return np.where(from_rows(protected, scores.shape, self.output_axes), infinite, scores).reshape(-1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values in the weights' shape."""
        return units.reshape(shape)

    @property
    def max_sparsity(self) -> float:
        """``1 - n / m``."""
        return 1 - self.n / self.m

    def keep(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """Marks the n highest of each group, and of the others as many as the sparsity leaves."""
        self.check_sparsity(sparsity)
        units = self.pool(scores)
        protected = int(np.count_nonzero(units == np.inf))
        keep = select_highest(units, max(protected, kept_count(len(units), sparsity)))
        return self.spread(keep.view(np.uint8), scores.shape)
