"""Whole outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from keras_prune.kernel_axes import OutputAxes, from_rows, standardize_axes, to_rows
from keras_prune.patterns.base import Pattern, check_pooling, is_count


@dataclasses.dataclass(frozen=True)
class Channel(Pattern):
    """All weights of one output (a unit of a dense layer, a filter of a convolution) are kept or pruned as one.

    In Sequential and functional models, nested ones too, what is pruned is the units of `keras_prune.graph`: a channel
    with everything that must go with it, in every layer that the graph joins (residual adds, depthwise kernels, biases,
    batch normalization). The sparsity is the fraction of the units that may go which are pruned; outputs of the model,
    and what cannot be traced, stay whole. `keras_prune.shrink` then removes the pruned ones.

    In subclassed models, in those with `Prune` wrappers, and with `output_axes`, each kernel has masks of its own, and
    what goes with a pruned channel is its bias, and its gamma and beta in a batch normalization right behind the layer.
    These are masks only: the shapes stay.

    Args:
        pooling: a channel's score: the ``"mean"``, ``"sum"`` or ``"max"`` of its weights' scores, where weights are
            scored.
        output_axes: the kernel's axes that count outputs, as in `NByM`; each kernel is then pruned by itself.
        round_to: keeps a multiple of this many channels in each group, so fewer are pruned; >= 1.
        minimum: channels that each group keeps at least, >= 1.
        protected: names or regular expressions of layers whose channels stay whole.
        exact: whether channels stay whole where zeros would change the statistics of a normalization over them (layer,
            group and RMS normalization). Without it they may go: call ``shrink(model, exact=False)`` and fine-tune.

    Raises:
        TypeError: protected is not of names, or exact is no bool.
        ValueError: an unknown pooling, a count below 1, or (when used) a weight of one dimension.

    Example:
        >>> import numpy as np
        >>> Channel().keep(np.array([[4.0, 1.0], [0.0, 2.0]]), 0.5).tolist()
        [[1, 0], [1, 0]]

    Li et al. 2016, "Pruning Filters for Efficient ConvNets" (https://arxiv.org/abs/1608.08710).
    """

    pooling: str = "mean"
    output_axes: OutputAxes | None = None
    _: dataclasses.KW_ONLY
    round_to: int = 1
    minimum: int = 1
    protected: Iterable[str] = ()
    exact: bool = True

    def __post_init__(self) -> None:
        check_pooling("Channel", self.pooling)
        object.__setattr__(self, "output_axes", standardize_axes(self.output_axes))
        for name in ("round_to", "minimum"):
            if not is_count(getattr(self, name)):
                raise ValueError(f"Channel.{name}: expected a whole number >= 1, got {getattr(self, name)!r}")
        several = isinstance(self.protected, Iterable) and not isinstance(self.protected, str)
        protected = tuple(self.protected) if several else (self.protected,)
        if not all(isinstance(name, str) for name in protected):
            raise TypeError(
                f"Channel.protected: expected names or regular expressions of layers, got {self.protected!r}"
            )
        object.__setattr__(self, "protected", protected)
        if not isinstance(self.exact, bool):
            raise TypeError(f"Channel.exact: expected True or False, got {self.exact!r}")

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {**super().get_config(), "protected": list(self.protected)}

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The channels' scores, in the order of the output axes."""
        reduce: Callable[..., np.ndarray] = getattr(np, self.pooling)
        return reduce(to_rows(scores, self.output_axes), axis=1)

    def spread(self, units: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Each channel's value on all its weights."""
        rows = np.broadcast_to(units[:, np.newaxis], (len(units), math.prod(shape) // len(units)))
        return np.ascontiguousarray(from_rows(rows, shape, self.output_axes))
