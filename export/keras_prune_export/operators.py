"""The operators of a file's first subgraph, what each reads, and how they pair with those of another file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed
from keras_prune_export.transformations.constants import OPERATORS, WEIGHT_SLOTS

_OPS = schema.BuiltinOperator
_DECODERS = (_OPS.DENSIFY, _OPS.DEQUANTIZE)  # of constants, they run once


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator that runs at every inference.

    Attributes:
        index: in the subgraph.
        kind: the built-in operator's name, or the custom one's.
        names: the names of its weights and of its first output; the converter joins those of fused operators.
        inputs: tensors; -1 is an absent one.
        outputs: tensors.
        weights: those inputs that are constant weights.
        decoders: the operators, by index, that make some of its inputs from constants, once.
    """

    index: int
    kind: str
    names: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[int, ...]
    decoders: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the layer is called in the tables: the last name of its weights, or of its output."""
        return self.names[0] if self.names else f"operator {self.index}"

    @property
    def computes(self) -> str:
        """The kind, our operator being called as the one that it replaces."""
        return packed.STANDS_FOR.get(self.kind, self.kind)


def operators(model: Any) -> list[Operator]:
    """Lists the operators of the first subgraph, without those that decode constants.

    Args:
        model: ``ModelT`` object.

    Returns:
        In the order of the file.
    """
    graph = model.subgraphs[0]
    makers: dict[int, int] = {}  # tensor -> the decoder that makes it
    found = []
    for index, op in enumerate(graph.operators or ()):
        if _decodes(model, graph, op, makers=makers):
            makers.update(dict.fromkeys(flatbuffer.indices(op.outputs), index))
        else:
            found.append(_operator(model, graph, index, makers=makers))
    return found


def _decodes(model: Any, graph: Any, op: Any, *, makers: dict[int, int]) -> bool:
    if _kind(model, op) == packed.EXPAND:
        return True
    inputs = flatbuffer.indices(op.inputs)
    fixed = all(index in makers or _is_constant(model, graph, index) for index in inputs)
    return flatbuffer.builtin_code(model, op) in _DECODERS and bool(inputs) and fixed


def _is_constant(model: Any, graph: Any, index: int) -> bool:
    return index >= 0 and model.buffers[graph.tensors[index].buffer].data is not None


def _kind(model: Any, op: Any) -> str:
    code = flatbuffer.builtin_code(model, op)
    if code == _OPS.CUSTOM:
        return flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode)
    return OPERATORS.get(code, f"operator {code}")


def _operator(model: Any, graph: Any, index: int, *, makers: dict[int, int]) -> Operator:
    op = graph.operators[index]
    kind, inputs = _kind(model, op), flatbuffer.indices(op.inputs)
    slots = (1,) if kind in packed.STANDS_FOR else WEIGHT_SLOTS.get(flatbuffer.builtin_code(model, op), ())
    read = [inputs[slot] for slot in slots if slot < len(inputs)]
    weights = [i for i in read if i in makers or _is_constant(model, graph, i)]
    outputs = flatbuffer.indices(op.outputs)
    names = [_parts(graph.tensors[i].name) for i in [*weights, *outputs[:1]] if i >= 0]
    decoders = _decoders(graph, [i for i in inputs if i in makers], makers=makers)
    unique = tuple(dict.fromkeys(part for parts in names for part in reversed(parts)))
    return Operator(index, kind, unique, tuple(inputs), tuple(outputs), tuple(weights), decoders)


def _decoders(graph: Any, tensors: Sequence[int], *, makers: dict[int, int]) -> tuple[int, ...]:
    """The decoders behind some tensors, in the order in which they run."""
    found: set[int] = set()
    waiting = list(tensors)
    while waiting:
        index = makers[waiting.pop()]
        if index not in found:
            found.add(index)
            waiting += [i for i in flatbuffer.indices(graph.operators[index].inputs) if i in makers]
    return tuple(sorted(found))


def _parts(name: bytes | str | None) -> list[str]:
    return [part for part in flatbuffer.text(name).split(";") if part]


def pairs(found: Sequence[Operator], reference: Sequence[Operator]) -> list[tuple[Operator, Operator]]:
    """Pairs the operators of two files of the same network: in their order, or else by kind and name.

    Args:
        found: operators of one file.
        reference: of the other.

    Returns:
        A pair for each of ``found``, in its order.

    Raises:
        ValueError: an operator has no partner, or more than one.
    """
    if [op.computes for op in found] == [op.computes for op in reference]:
        return list(zip(found, reference, strict=True))
    return [(op, _partner(op, reference)) for op in found]


def _partner(op: Operator, reference: Sequence[Operator]) -> Operator:
    found = [other for other in reference if other.computes == op.computes and set(op.names) & set(other.names)]
    if len(found) != 1:
        raise ValueError(
            f"expected a reference of the same network, got one with {len(found)} operators {op.computes} of a name in "
            f"{list(op.names)}; pass the float file that this one was made from"
        )
    return found[0]
