"""Small layers stay denser than large ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from keras_prune.allocation.base import Allocation, shapes_of
from keras_prune.selection import kept_count


@dataclasses.dataclass(frozen=True)
class ERK(Allocation):
    """Erdos-Renyi-Kernel: ``density_l = min(1, epsilon * sum(dimensions of l) / product(dimensions of l))``.

    For a dense layer that is ``(inputs + outputs) / (inputs * outputs)``, for a convolution the kernel's height and
    width count as dimensions too. epsilon is solved for, with layers capped at dense, so that exactly
    ``round(size * (1 - s(t)))`` weights of the model are kept at every step (of single weights; larger units round).

    Example:
        >>> import numpy as np
        >>> ERK()({"small": np.ones((2, 2)), "large": np.ones((10, 10))}, 0.75, 0.75)
        {'small': 0.0, 'large': 0.78}

    Evci, Gale, Menick, Castro and Elsen 2020, "Rigging the Lottery" (https://arxiv.org/abs/1911.11134); Mocanu et al.
    2018 (https://arxiv.org/abs/1707.04780).
    """

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """Each layer's sparsity."""
        del final_sparsity
        shapes = shapes_of(scores)
        sizes = {path: math.prod(shape) for path, shape in shapes.items()}
        kept = _shares(shapes, kept_count(sum(sizes.values()), sparsity))
        return {path: 1.0 - kept[path] / sizes[path] for path in shapes}


def _shares(shapes: Mapping[str, tuple[int, ...]], total: int) -> dict[str, int]:
    """How many weights each layer keeps: in proportion to its dimensions' sum, at most all, `total` together."""
    kept: dict[str, float] = {}
    rest = dict(shapes)
    while rest:
        epsilon = max(0.0, total - sum(kept.values())) / sum(map(sum, rest.values()))
        full = {path: math.prod(shape) for path, shape in rest.items() if epsilon * sum(shape) >= math.prod(shape)}
        if not full:
            break
        kept.update(full)
        rest = {path: shape for path, shape in rest.items() if path not in full}
    kept.update({path: epsilon * sum(shape) for path, shape in rest.items()})
    whole = {path: max(1, math.floor(kept[path])) for path in shapes}
    # The places that rounding down left go to the largest remainders.
    by_remainder = sorted(rest, key=lambda path: whole[path] - kept[path])
    for path in by_remainder[: max(0, total - sum(whole.values()))]:
        whole[path] += 1
    return whole
