"""How much a call computes, and of what this depends when channels are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_prune.layer_costs.calls import Call


@dataclasses.dataclass(frozen=True)
class Term:
    """A part of a call's cost.

    Attributes:
        amount: of the whole model.
        variable: the amount is in proportion to this variable's sizes along `axes`; None: to the output's elements.
        axes: axes of the variable; None: all of them.
    """

    amount: int
    variable: Any = None
    axes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call computes.

    Attributes:
        macs: multiply-accumulates.
        flops: floating-point operations besides those.
        outputs: (variable, axes, number) of the channels that make the output, one after another; empty: the input's.
        units: output channels that its kernels make.
        copies: False for a view of its input: nothing is read or written.
        rows: elements of the weights that are read, where that is not all of them (an embedding); None: all.
    """

    macs: tuple[Term, ...] = ()
    flops: tuple[Term, ...] = ()
    outputs: tuple[tuple[Any, tuple[int, ...], int], ...] = ()
    units: int = 0
    copies: bool = True
    rows: int | None = None

    @property
    def num_macs(self) -> int:
        """All multiply-accumulates."""
        return sum(term.amount for term in self.macs)

    @property
    def num_flops(self) -> int:
        """All operations; a multiply-accumulate is two."""
        return 2 * self.num_macs + sum(term.amount for term in self.flops)


# A call's work; None if the layer does what its kind alone does not tell.
Rule = Callable[[Call], Work | None]
_LAYERS: dict[str, Rule] = {}
_OPERATORS: dict[str, Rule] = {}


def layer_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for layers of `keras.layers`, by name."""
    return lambda rule: _register(_LAYERS, names, rule)


def operator_rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operators of `keras.ops`, by the name of their class."""
    return lambda rule: _register(_OPERATORS, names, rule)


def _register(rules: dict[str, Rule], names: Sequence[str], rule: Rule) -> Rule:
    rules.update(dict.fromkeys(names, rule))
    return rule


def kind_of(layer: Any) -> str | None:
    """The name of Keras' own class whose ``call`` a layer or operator has; None if its own code computes."""
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("keras."):
            own = isinstance(layer, keras.Layer) and type(layer).call is not getattr(cls, "call", None)
            return None if own else cls.__name__
    return None


def work_of(call: Call) -> Work | None:
    """What a call computes; None if that is unknown: a layer of the user's own, or one that no rule is for."""
    kind = kind_of(call.layer)
    rules = _LAYERS if isinstance(call.layer, keras.Layer) else _OPERATORS
    if kind not in rules or getattr(call.layer, "quantization_mode", None) not in (None, "int8", "float8"):
        return None
    return rules[kind](call)


def each(call: Call, flops: int = 1) -> tuple[Term, ...]:
    """So many operations for each element of the outputs."""
    size = sum(output.size for output in call.outputs)
    return (Term(flops * size),) if flops and size else ()


def activation_flops(function: Any) -> int:
    """Operations an element of an activation function: softmax is 5, as TensorFlow's profiler counts it, others 1."""
    name = getattr(function, "__name__", type(function).__name__).lower()
    return {"linear": 0, "nonetype": 0, "softmax": 5, "log_softmax": 5}.get(name, 1)


def bias_and_activation(call: Call) -> tuple[Term, ...]:
    """What a layer with kernels does with each element of its output in the end."""
    layer = call.layer
    return each(call, int(getattr(layer, "bias", None) is not None) + activation_flops(layer.activation))
