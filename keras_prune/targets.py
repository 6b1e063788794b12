"""When to stop removing: a fraction of what the dense model costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_prune.registry import Value

QUANTITIES = ("units", "parameters", "flops", "bytes", "latency")


@dataclasses.dataclass(frozen=True)
class Target(Value):
    """What of the dense model shall be left at most: ``quantity(shrunk model) / quantity(dense model) <= fraction``.

    Args:
        quantity: ``"units"`` (those that may go), ``"parameters"``, ``"flops"``, ``"bytes"`` (of the weights) or
            ``"latency"`` (measured).
        fraction: of the dense model, in (0, 1): 0.25 for four times fewer.
        measure: for ``"latency"``: model -> seconds of one inference, such as
            `keras_prune_export.measure_latency`; it is called with the shrunk model.

    Raises:
        ValueError: an unknown quantity, a fraction outside (0, 1), or a latency that nothing measures.
        TypeError: something to measure with that cannot be called.

    Example:
        >>> Target("flops", 0.26)
        Target(quantity='flops', fraction=0.26, measure=None)
    """

    quantity: str
    fraction: float
    _: dataclasses.KW_ONLY
    measure: Callable[[Any], float] | None = None

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            names = ", ".join(map(repr, QUANTITIES))
            raise ValueError(f"Target.quantity: expected one of {names}, got {self.quantity!r}")
        number = isinstance(self.fraction, (int, float)) and not isinstance(self.fraction, bool)
        if not number or not 0 < self.fraction < 1:
            raise ValueError(
                f"Target.fraction: expected what is left of the dense model, above 0 and below 1, got "
                f"{self.fraction!r}; for four times fewer give 0.25"
            )
        if (self.quantity == "latency") != (self.measure is not None):
            raise ValueError(
                f"Target.measure: expected a function of the model for 'latency', such as "
                f"keras_prune.measure_latency, and none for other quantities, got {self.measure!r} for "
                f"{self.quantity!r}"
            )
        if self.measure is not None and not callable(self.measure):
            raise TypeError(f"Target.measure: expected a function, model -> seconds, got {self.measure!r}")
