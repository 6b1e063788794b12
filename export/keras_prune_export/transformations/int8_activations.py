"""Operators on packed weights compute with int8 activations, or with float32 ones again: their options say so."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.targets import convolution, fully_connected
from keras_prune_export.targets import packed as target

Options = fully_connected.Options | convolution.Options
_OPTIONS: dict[str, type[Options]] = {
    target.COMPUTE: fully_connected.Options,
    target.CONVOLVE: convolution.Options,
}
Place = tuple[int, int]  # an operator: number of its subgraph, and its own


def computing(model: Any) -> Iterator[tuple[Place, Any]]:
    """The operators that compute on packed weights, in the order of the file."""
    for number, graph in enumerate(model.subgraphs):
        for index, op in enumerate(graph.operators or ()):
            if _kind(model, op) in _OPTIONS:
                yield (number, index), op


def options_of(model: Any, op: Any) -> Options:
    """The options of a computing operator of the model.

    Raises:
        ValueError: they are damaged, or of another version.
    """
    data = bytes(op.customOptions if op.customOptions is not None else b"")
    return _OPTIONS[_kind(model, op)].from_bytes(data)


def set_activations(
    model: Any, kind: str, scales: Mapping[Place, float] | None = None, *, places: Collection[Place] | None = None
) -> None:
    """Gives computing operators this kind.

    Args:
        model: ``ModelT`` object, edited in place.
        kind: "float32" or "int8".
        scales: for "int8": one step of each operator's activations; None: of each row, while the model runs.
        places: of the operators, others stay as they are; None: all.
    """
    for place, op in computing(model):
        if places is not None and place not in places:
            continue
        scale = None if scales is None else float(scales[place])
        options = dataclasses.replace(options_of(model, op), activations=kind, x_scale=scale)
        op.customOptions = np.frombuffer(options.to_bytes(), np.uint8)


def _kind(model: Any, op: Any) -> str:
    return flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode)
