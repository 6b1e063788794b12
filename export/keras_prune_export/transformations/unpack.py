"""One custom operator in each subgraph expands packed constants, at load, to ordinary ones (docs/format.md)."""

from __future__ import annotations

import collections
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.constants import View

OPTIONS_VERSION = 1


def options_bytes() -> bytes:
    """The operator's custom options, the 8 bytes that docs/format.md describes."""
    head = struct.pack("<BBBB", OPTIONS_VERSION, 0, 0, 0)
    return head + struct.pack("<I", zlib.crc32(head))


def unpack(model: Any, weights: Sequence[tuple[View, bytes]]) -> None:
    """Gives each subgraph one operator whose outputs are the weight tensors: their names, shapes and types stay.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        weights: the tensors, and the packed bytes that take the place of their values.
    """
    pairs: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)  # subgraph -> packed and dense tensors
    for view, packed in weights:
        kept = _merged(model, view)
        tensors = edits.add_bytes(model, packed, {number for number, _ in kept})
        for number, index in kept:
            tensor = model.subgraphs[number].tensors[index]
            tensor.buffer, tensor.sparsity = 0, None
            pairs[number].append((tensors[number], index))
    for number, found in pairs.items():
        op = schema.OperatorT()
        op.opcodeIndex = edits.custom_code(model, target.EXPAND)
        op.inputs, op.outputs = (np.array(indices, np.int32) for indices in zip(*found, strict=True))
        op.customOptions = np.frombuffer(options_bytes(), np.uint8)
        graph = model.subgraphs[number]
        graph.operators = [op, *graph.operators]


def _merged(model: Any, view: View) -> list[tuple[int, int]]:
    """The view's tensors, one a subgraph where they are floats: expanded twice they would take memory twice.

    Integers keep their own tensors: these may have quantization parameters of their own.
    """
    if np.dtype(flatbuffer.DTYPES[view.type]).kind != "f":
        return list(dict.fromkeys(view.places))
    first: dict[int, int] = {}
    for number, index in view.places:
        first.setdefault(number, index)
    for reader in view.readers:
        inputs = flatbuffer.indices(reader.op.inputs)
        inputs[reader.slot] = first[reader.graph]
        reader.op.inputs = np.array(inputs, np.int32)
    return list(first.items())
