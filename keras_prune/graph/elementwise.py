"""What functions that compute each place by itself make of a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_NAMES = (
    "linear relu relu6 leaky_relu elu selu celu gelu silu swish mish tanh sigmoid hard_sigmoid hard_silu hard_swish "
    "hard_tanh softplus softsign exponential log_sigmoid tanh_shrink hard_shrink soft_shrink threshold squareplus "
    "sparse_plus"
).split()
_ACTIVATIONS = [getattr(keras.activations, name) for name in _NAMES if hasattr(keras.activations, name)]


def value_after(function: Any, value: float) -> float | None:
    """What an activation function makes of a number; None for one that may compare places with one another.

    Args:
        function: an activation, as layers hold it; None stands for none.
        value: NaN stays NaN.
    """
    if function is None:
        return value
    if isinstance(function, keras.Layer) or function not in _ACTIVATIONS:
        return None
    return float(evaluate(function, np.array([value]))[0])


def why_unknown(function: Any) -> str:
    """Why channels before a function for which `value_after` has no answer stay."""
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", None) or type(function).__module__
    if module.partition(".")[0] == "keras":
        return f"the activation {name!r}, which may compare channels"
    known = any(getattr(one, "__name__", "") == name for one in _ACTIVATIONS)
    advice = f"; Keras's own is activation={name!r}" if known else ""
    return f"the activation {name!r} of {module}, of which only its author knows whether it compares channels{advice}"


def evaluate(function: Callable[..., Any], values: np.ndarray) -> np.ndarray:
    """A Keras function of a float array, in float32; NaN stays NaN."""
    result = function(keras.ops.convert_to_tensor(np.nan_to_num(values).astype(np.float32)))
    return np.where(np.isnan(values), np.nan, keras.ops.convert_to_numpy(result).astype(np.float64))
