"""The calls that cost something, each with the weights that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_prune.graph import unwrapped
from keras_prune.layer_axes import layers_within
from keras_prune.layer_costs import feedforward, operators, sequences
from keras_prune.layer_costs.calls import Call, record_calls
from keras_prune.layer_costs.work import Work, kind_of, work_of

# They call their layers, and compute nothing themselves in inference.
_CONTAINERS = ("Functional", "Sequential", "TimeDistributed", "SpectralNormalization")
RULES = (feedforward, sequences, operators)  # which register themselves when they are imported


@dataclasses.dataclass(frozen=True)
class Entry:
    """One call.

    Attributes:
        name: the layer's, behind those of the models and layers that it is in.
        kind: its class, that of Keras where it has one's ``call``.
        call: None for weights that no call reads.
        work: what it computes; None if that is unknown.
        weights: all that it reads.
        new: those of them that no call before has read.
    """

    name: str
    kind: str
    call: Call | None
    work: Work | None
    weights: tuple[Any, ...]
    new: tuple[Any, ...]


def entries(model: Any, input_shape: Any = None) -> list[Entry]:
    """The calls of all layers and operators of a model, in order; weights that none of them reads come last."""
    top = record_calls(model, input_shape)
    masks = _masks(model)
    seen: set[int] = set()
    found = []
    for call, work, weights in _walk(top):
        kept = tuple(variable for variable in weights if id(variable) not in masks)
        new = tuple(variable for variable in kept if id(variable) not in seen)
        seen |= set(map(id, new))
        kind = kind_of(call.layer) or type(call.layer).__name__
        found.append(Entry(call.name or model.name, kind, call, work, kept, new))
    rest = tuple(variable for variable in model.weights if id(variable) not in seen | masks)
    if rest:
        found.append(Entry("(never called)", "", None, Work(copies=False), rest, rest))
    return found


def _walk(call: Call) -> Iterator[tuple[Call, Work | None, list[Any]]]:
    """Each call that computes something of its own, with its work and weights."""
    if kind_of(call.layer) in _CONTAINERS:
        for inner in call.inner:
            yield from _walk(inner)
        return
    work = work_of(call)
    weights = getattr(call.layer, "weights", [])
    if work is None:
        layers = [layer for layer in layers_within(call.layer) if layer is not call.layer]
        inside = {id(variable) for layer in layers for variable in layer.weights}
        weights = [variable for variable in weights if id(variable) not in inside]
    yield call, work, weights
    if work is None:
        for inner in call.inner:
            yield from _walk(inner)


def _masks(model: Any) -> set[int]:
    """The masks that `Prune` adds to the weights of a layer: they are no part of what the layer costs."""
    found: set[int] = set()
    for layer in layers_within(model):
        inner = unwrapped(layer)
        if inner is not layer:
            found |= set(map(id, layer.weights)) - set(map(id, inner.weights))
    return found
