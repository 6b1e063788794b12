"""One threshold for all layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_prune.allocation.base import Allocation
from keras_prune.selection import kept_count, select_highest


@dataclasses.dataclass(frozen=True)
class Global(Allocation):
    """One threshold for all layers: the highest scores of the whole model are kept, wherever they are.

    Exactly ``round(size * (1 - s(t)))`` weights are kept; of equal scores those that come first, in the order of the
    layers and then row-major. A layer whose scores are all low can lose every weight. Infinite scores are kept even
    where they are more than that: so `NByM` marks what it must keep.

    Example:
        >>> import numpy as np
        >>> Global()({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, 0.5, 0.5)
        {'a': 1.0, 'b': 0.0}
    """

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The fraction of each layer below the common threshold."""
        del final_sparsity
        names = list(scores)
        flat = [np.asarray(scores[name], np.float32).reshape(-1) for name in names]
        together = np.concatenate(flat)
        kept = max(kept_count(len(together), sparsity), int(np.count_nonzero(together == np.inf)))
        keep = select_highest(together, kept)
        parts = np.split(keep, np.cumsum([len(part) for part in flat])[:-1])
        return {name: 1.0 - int(np.count_nonzero(part)) / len(part) for name, part in zip(names, parts, strict=True)}
