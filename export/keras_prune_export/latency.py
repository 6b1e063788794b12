"""Latency of Keras models on this machine's LiteRT: of a whole model, and by the number of channels of its layers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import keras_prune
from keras_prune.graph import dependencies
from keras_prune.latency_table import LatencyTable
from keras_prune_export import converter, measure, runtime
from keras_prune_export.progress import Progress

_ROUNDS = 15  # of about 10 ms: a median that repeats within 1 or 2 % on a quiet machine


def measure_latency(model: Any, *, num_threads: int = 1, rounds: int = _ROUNDS) -> float:
    """Seconds of one inference of a model as a stock float32 .tflite file: batch 1, the median.

    Zeros take as long as other numbers: pass what `keras_prune.shrink` makes to see what pruning saves. `Target` takes
    this function for a measured latency.

    Args:
        model: a Keras 3 model that is built.
        num_threads: of the runtime.
        rounds: blocks of about 10 ms that are timed, >= 1.

    Returns:
        Seconds.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> 0 < measure_latency(model, rounds=1) < 1
        True
    """
    interpreter = runtime.load_interpreter(converter.convert(model), num_threads=num_threads)
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
    return measure.time_in_turn({"model": interpreter}, title="latency", rounds=rounds)["model"].median / 1e3


def measure_latency_table(
    model: Any,
    *,
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    measure_model: Callable[[Any], float] = measure_latency,
    device: str = "",
    exact: bool = True,
) -> LatencyTable:
    """Measures a model with fewer channels in one group at a time, for `Regularized(cost=table)`.

    Each group of units that may go is shrunk to some fractions of its units, all other layers as they are; so what the
    layers behind save is in its seconds too.

    Args:
        model: a Keras 3 model, Sequential or functional, that is built; it is not changed.
        fractions: of a group's units that are kept, each in (0, 1).
        measure_model: model -> seconds.
        device: what it is measured on, for people; "" for this machine's name.
        exact: as in `Channel`, for the groups that may go.

    Returns:
        The table; ``table.save(path)`` writes it.

    Raises:
        ValueError: a fraction outside (0, 1), or a model that cannot be traced.
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise ValueError(f"fractions: expected numbers above 0 and below 1, got {fractions!r}")
    small = keras_prune.shrink(model, exact=exact)  # a copy, whose weights may change
    found = dependencies(small, exact=exact)
    weights, total = small.get_weights(), measure_model(small)
    progress = Progress("latency table", len(found.free))
    layers = {}
    for group in found.free:
        size = len(group.units)
        points = {size * group.width: total}
        for count in sorted({max(1, round(size * fraction)) for fraction in fractions} - {size}):
            removed = np.zeros(found.num_units, bool)
            removed[group.units[count:]] = True
            found.set_zero(removed)
            points[count * group.width] = measure_model(keras_prune.shrink(small, exact=exact))
            small.set_weights(weights)
        if len(points) > 1:
            layers[group.name] = points
        progress.step()
    return LatencyTable(layers, total, device or platform.node())
