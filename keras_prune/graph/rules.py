"""Which rule traces channels through which layer or operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# (trace, call, the call's flows) -> the flows of the call's results, one or a list.
Rule = Callable[..., Any]

_LAYERS: dict[type, Rule] = {}
_OPERATORS: dict[str, Rule] = {}


def layer_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for layers of `keras.layers`, by name; older Keras lacks some."""

    def register(rule: Rule) -> Rule:
        for name in names:
            cls = keras.Model if name == "Model" else getattr(keras.layers, name, None)
            if cls is not None:
                _LAYERS[cls] = rule
        return rule

    return register


def operator_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operators of `keras.ops`, by the name of their class."""

    def register(rule: Rule) -> Rule:
        _OPERATORS.update(dict.fromkeys(names, rule))
        return rule

    return register


def find_rule(layer: Any) -> Rule | None:
    """The rule for a layer or operator; None if there is none, or a subclass computes in its own way."""
    if isinstance(layer, keras.Model):
        return _LAYERS.get(keras.Model)
    if not isinstance(layer, keras.Layer):
        known = type(layer).__module__.startswith("keras.")
        return _OPERATORS.get(type(layer).__name__) if known else None
    for cls in type(layer).__mro__:
        if cls in _LAYERS:
            return _LAYERS[cls] if type(layer).call is cls.call else None  # type: ignore[attr-defined]
    if type(layer).__module__.startswith("keras."):  # of keras.applications
        return _OPERATORS.get(f"layer {type(layer).__name__}")
    return None
