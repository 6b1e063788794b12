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


def is_graph(model: Any) -> bool:
    """Whether a model computes what its layers, as Keras connects them, compute: it has no `call` of its own."""
    return bool(getattr(model, "inputs", None) and getattr(model, "outputs", None)) and type(
        model
    ).call.__module__.startswith("keras.")


# What a subclass may have of its own and still compute as its base class.
_HARMLESS = {"__init__", "get_config", "from_config", "build_from_config", "train_step", "test_step", "predict_step"}


def _computes_otherwise(layer: Any, cls: type) -> bool:
    """Whether a subclass of a known layer overrides what it computes with, or the kernel is not what it says."""
    classes = type(layer).__mro__[: type(layer).__mro__.index(cls)]
    own = {name for one in classes if not one.__module__.startswith("keras.") for name in vars(one)}
    overrides = {name for name in own if hasattr(cls, name) and not name.startswith("__")} - _HARMLESS
    adapted = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return bool(overrides - {"_abc_impl"}) or "__call__" in own or bool(adapted)


def find_rule(layer: Any) -> Rule | None:
    """The rule for a layer or operator; None if there is none, or it computes in its own way, or quantized."""
    if isinstance(layer, keras.Model):
        return _LAYERS.get(keras.Model) if is_graph(layer) else None
    if not isinstance(layer, keras.Layer):
        known = type(layer).__module__.startswith("keras.")
        return _OPERATORS.get(type(layer).__name__) if known else None
    for cls in type(layer).__mro__:
        if cls in _LAYERS:
            return None if _computes_otherwise(layer, cls) else _LAYERS[cls]
        if cls.__module__.startswith("keras."):  # not what it is derived from
            break
    if type(layer).__module__.startswith("keras."):  # of keras.applications
        return _OPERATORS.get(f"layer {type(layer).__name__}")
    return None
