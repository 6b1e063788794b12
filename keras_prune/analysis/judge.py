"""How good a model is, as one number."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# Examples at once; what is measured does not depend on it.
BATCH = 512


def judge(data: Any, metric: str = "accuracy") -> Callable[[Any], float]:
    """A function that says how good a model is: higher is better.

    Args:
        data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, a dataset that ``model.evaluate`` takes, or a function
            of the model that returns a number.
        metric: the name of a metric that the model was compiled with; left aside where ``data`` is a function.

    Returns:
        model -> number. It compiles once for each model and never again, whatever the weights become.

    Raises:
        TypeError: ``data`` is none of these.
        ValueError: (when called) the model is not compiled, or has no such metric.
    """
    if callable(data):
        return lambda model: float(data(model))
    arguments = _arguments(data)

    def score(model: Any) -> float:
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"model: expected a compiled model with the metric {metric!r}, got one that is not compiled; call "
                f"model.compile(loss=..., metrics=[{metric!r}]), or give a function of the model as data"
            )
        logs = model.evaluate(**arguments, verbose=0, return_dict=True)
        if metric not in logs:
            raise ValueError(f"metric: expected one of {', '.join(map(repr, logs))}, got {metric!r}")
        return float(logs[metric])

    return score


def _arguments(data: Any) -> dict[str, Any]:
    """The arguments of evaluate."""
    check_data(data)
    if isinstance(data, tuple | list):
        return {**dict(zip(("x", "y", "sample_weight"), data, strict=False)), "batch_size": BATCH}
    return {"x": data}


def check_data(data: Any) -> None:
    """Raises TypeError unless the data are (x, y), (x, y, sample_weight), or a dataset that can be read again."""
    if isinstance(data, tuple | list):
        if not 2 <= len(data) <= 3:
            raise TypeError(f"data: expected (x, y) or (x, y, sample_weight), got a tuple of {len(data)}")
        return
    is_array = isinstance(data, np.ndarray | dict | str)
    if not isinstance(data, keras.utils.PyDataset) and (is_array or not hasattr(data, "__iter__")):
        raise TypeError(f"data: expected (x, y), a dataset, or a function of the model, got {type(data).__name__}")
    if iter(data) is data:
        raise TypeError("data: expected data that can be read again for each measurement, got a generator")


def fingerprint(value: Any) -> str:
    """What tells one set of arrays from another, in 8 digits; "" where it cannot be known without reading a dataset.

    Args:
        value: arrays, nested in tuples, lists and dicts.
    """
    leaves = keras.tree.flatten(value)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return ""
    total = 0
    for leaf in leaves:
        values = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data  # bfloat16 has no buffer of its own
        total = zlib.crc32(values, zlib.crc32(str(leaf.shape).encode(), total))
    return f"{total:08x}"
