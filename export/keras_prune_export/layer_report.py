"""What the packed weights of a file hold, from the file alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.targets import convolution, packed
from keras_prune_export.transformations.int8_activations import options_of


def packed_layers(model: Any) -> list[packed.Layer]:
    """Lists the packed weights; shared ones count once.

    Args:
        model: ``ModelT`` object.

    Returns:
        One layer for each packed buffer, in the order of the file, those that are expanded at load first.

    Raises:
        FormatError: packed weights that are damaged, or of other weights than the file says.
    """
    return [layer for layer, _ in packed_weights(model)]


def packed_weights(model: Any) -> list[tuple[packed.Layer, np.ndarray]]:
    """As `packed_layers`, each with its packed buffer, uint8."""
    layers = {}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            for form, index, dense in _pairs(model, op):
                tensor, named = graph.tensors[index], graph.tensors[dense]
                data = model.buffers[tensor.buffer].data
                data = np.asarray([] if data is None else data, np.uint8)
                shape = tuple(flatbuffer.indices(named.shape)) if form == "expand" else weights_shape(model, op, data)
                layer = packed.describe(flatbuffer.text(named.name), data, form=form, shape=shape)
                kind = options_of(model, op).activations if form == "compute" else ""
                layers[tensor.buffer] = dataclasses.replace(layer, activations=kind), data
    return list(layers.values())


def weights_shape(model: Any, op: Any, data: np.ndarray) -> tuple[int, ...] | None:
    """The shape of the dense weights of an operator that computes; None: the matrix that is packed.

    Args:
        model: ``ModelT`` object.
        op: the ``OperatorT``.
        data: its packed weights.

    Raises:
        FormatError: not packed weights.
        ValueError: the operator is damaged.
    """
    if flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode) != packed.CONVOLVE:
        return None
    options = bytes(op.customOptions if op.customOptions is not None else b"")
    return convolution.Options.from_bytes(options).weights_shape(*packed.matrix_shape(data))


def _pairs(model: Any, op: Any) -> list[tuple[str, int, int]]:
    """Form, packed tensor, and the tensor that has the weights' name."""
    code = flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode)
    inputs, outputs = flatbuffer.indices(op.inputs), flatbuffer.indices(op.outputs)
    pairs: list[tuple[str, int, int]] = []
    if code in packed.STANDS_FOR:
        pairs = [("compute", index, index) for index in inputs[1:2]]
    elif code == packed.EXPAND and len(inputs) == len(outputs):
        pairs = [("expand", *pair) for pair in zip(inputs, outputs, strict=True)]
    if any(min(pair[1:]) < 0 for pair in pairs) or (code in (*packed.STANDS_FOR, packed.EXPAND) and not pairs):
        raise ValueError(f".tflite file: an operator {code} without its tensors; the file is damaged")
    return pairs
