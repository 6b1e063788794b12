"""Small edits of a model's tables: what is added, and what nothing uses any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema


def add_buffer(model: Any, data: bytes) -> int:
    """Appends a constant's bytes; returns the buffer's index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def add_bytes(model: Any, data: bytes, graphs: Iterable[int], *, name: str = "") -> dict[int, int]:
    """Appends a constant of bytes, and a tensor for it in each of some subgraphs.

    Args:
        model: ``ModelT`` object, edited in place.
        data: the bytes, stored once.
        graphs: numbers of the subgraphs.
        name: of the tensors; they need none.

    Returns:
        Subgraph -> the tensor's index.
    """
    buffer, found = add_buffer(model, data), {}
    for number in sorted(graphs):
        tensor = schema.TensorT()
        tensor.buffer, tensor.name, tensor.type = buffer, name or None, schema.TensorType.UINT8
        tensor.shape, tensor.hasRank = np.array([len(data)], np.int32), True
        model.subgraphs[number].tensors.append(tensor)
        found[number] = len(model.subgraphs[number].tensors) - 1
    return found


def custom_code(model: Any, name: str) -> int:
    """The index of a custom operator's code, added when it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if flatbuffer.text(code.customCode) == name:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = name, 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def public_tensors(model: Any) -> list[set[int]]:
    """For each subgraph the tensors that a caller may know: its inputs and outputs, and those of signatures."""
    found = [{*flatbuffer.indices(graph.inputs), *flatbuffer.indices(graph.outputs)} for graph in model.subgraphs]
    for signature in model.signatureDefs or ():
        found[signature.subgraphIndex] |= {entry.tensorIndex for entry in _entries(signature)}
    return found


def _entries(signature: Any) -> list[Any]:
    return [*(signature.inputs or ()), *(signature.outputs or ())]


def drop_unused_tensors(model: Any) -> None:
    """Drops tensors that no operator and no caller knows."""
    renumbering = []
    for graph, public in zip(model.subgraphs, public_tensors(model), strict=True):
        holders: list[tuple[Any, str]] = [(graph, "inputs"), (graph, "outputs")]
        holders += [(op, name) for op in graph.operators or () for name in ("inputs", "outputs", "intermediates")]
        used = {index for holder, name in holders for index in flatbuffer.indices(getattr(holder, name))}
        new = {-1: -1, **_renumber((used | public) - {-1})}
        for holder, name in holders:
            if getattr(holder, name) is not None:
                renumbered = [new[index] for index in flatbuffer.indices(getattr(holder, name))]
                setattr(holder, name, np.array(renumbered, np.int32))
        graph.tensors = [tensor for index, tensor in enumerate(graph.tensors or ()) if index in new]
        renumbering.append(new)
    for signature in model.signatureDefs or ():
        for entry in _entries(signature):
            entry.tensorIndex = renumbering[signature.subgraphIndex][entry.tensorIndex]


def drop_unused(model: Any) -> None:
    """Drops operator codes and buffers that nothing refers to; empty buffers become the schema's buffer 0."""
    ops = [op for graph in model.subgraphs for op in graph.operators or ()]
    codes = _renumber(op.opcodeIndex for op in ops)
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for op in ops:
        op.opcodeIndex = codes[op.opcodeIndex]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors or ()]
    for tensor in tensors:
        if model.buffers[tensor.buffer].data is None:
            tensor.buffer = 0
    metadata = list(model.metadata or ())
    used = [*(tensor.buffer for tensor in tensors), *(entry.buffer for entry in metadata)]
    buffers = _renumber([0, *used, *flatbuffer.indices(model.metadataBuffer)])
    model.buffers = [model.buffers[index] for index in buffers]
    for holder in [*tensors, *metadata]:
        holder.buffer = buffers[holder.buffer]
    if model.metadataBuffer is not None:
        model.metadataBuffer = [buffers[index] for index in flatbuffer.indices(model.metadataBuffer)]


def _renumber(used: Iterable[int]) -> dict[int, int]:
    """Old index -> new index, in the old order."""
    return {old: new for new, old in enumerate(sorted(set(used)))}


def drop_metadata(model: Any, names: Sequence[str]) -> None:
    """Drops metadata entries by name; `drop_unused` then drops their buffers."""
    if model.metadata is not None:
        model.metadata = [entry for entry in model.metadata if flatbuffer.text(entry.name) not in names] or None
