"""A FULLY_CONNECTED becomes one custom operator that computes on packed weights (docs/format.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.targets.fully_connected import Options
from keras_prune_export.transformations.constants import Reader, View

# TFLite's activations that the operator has; the numbers are the same in its options.
ACTIVATIONS = {
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU_N1_TO_1,
    schema.ActivationFunctionType.RELU6,
}


def why_not_computed(model: Any, reader: Reader) -> str:
    """Why one FULLY_CONNECTED cannot compute on packed weights; empty when it can.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
    """
    inputs, outputs = flatbuffer.indices(reader.op.inputs), flatbuffer.indices(reader.op.outputs)
    if len(inputs) < 2 or min(inputs[:2]) < 0 or len(outputs) != 1 or outputs[0] < 0:
        return "it has other inputs or outputs than expected"
    tensors = model.subgraphs[reader.graph].tensors
    activations, weights, output = tensors[inputs[0]], tensors[inputs[1]], tensors[outputs[0]]
    bias = tensors[inputs[2]] if len(inputs) > 2 and inputs[2] >= 0 else None
    shape, options, float32 = flatbuffer.indices(weights.shape), reader.op.builtinOptions, schema.TensorType.FLOAT32
    checks = {
        "its activations are not float32": activations.type == float32 and output.type == float32,
        "its weights are not a matrix": len(shape) == 2 and min(shape) >= 1,
        "its options are another operator's": options is None or isinstance(options, schema.FullyConnectedOptionsT),
        "its weights are shuffled": not getattr(options, "weightsFormat", 0),
        "its bias is not float32 of the outputs' size": bias is None
        or (bias.type == float32 and flatbuffer.indices(bias.shape) == shape[:1]),
        "its fused activation is not none, ReLU, ReLU6 or ReLU -1...1": getattr(options, "fusedActivationFunction", 0)
        in ACTIVATIONS,
    }
    return next((reason for reason, holds in checks.items() if not holds), "")


def pack_fully_connected(model: Any, view: View, packed: bytes) -> None:
    """Turns the operators that read a view into custom ones on packed weights.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        view: weights that only FULLY_CONNECTED operators read.
        packed: the bytes that take their place.
    """
    code = edits.custom_code(model, target.COMPUTE)
    tensors = edits.add_bytes(model, packed, {reader.graph for reader in view.readers}, name=name_of(model, view))
    for reader in view.readers:
        op, options = reader.op, reader.op.builtinOptions
        data = Options(
            getattr(options, "fusedActivationFunction", 0), bool(getattr(options, "keepNumDims", 0))
        ).to_bytes()
        op.opcodeIndex, op.builtinOptionsType, op.builtinOptions = code, 0, None
        op.customOptions = np.frombuffer(data, np.uint8)
        inputs = [*flatbuffer.indices(op.inputs), -1][:3]
        op.inputs = np.array([inputs[0], tensors[reader.graph], inputs[2]], np.int32)


def name_of(model: Any, view: View) -> str:
    """What a view's weights are called."""
    number, index = view.places[0]
    return flatbuffer.text(model.subgraphs[number].tensors[index].name)
