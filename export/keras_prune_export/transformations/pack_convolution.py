"""A CONV_2D becomes one custom operator that computes on packed weights (docs/format.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import convolution
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.constants import Reader, View
from keras_prune_export.transformations.pack_fully_connected import ACTIVATIONS, name_of

# Patches of fewer channels are copied in pieces too small to gain anything: the first layers of most networks.
_FEWEST_CHANNELS = 16
_PADDINGS = {schema.Padding.SAME: "same", schema.Padding.VALID: "valid"}


def why_not_computed(model: Any, reader: Reader) -> str:
    """Why one CONV_2D cannot compute on packed weights; empty when it can.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
    """
    inputs, outputs = flatbuffer.indices(reader.op.inputs), flatbuffer.indices(reader.op.outputs)
    if len(inputs) < 2 or min(inputs[:2]) < 0 or len(outputs) != 1 or outputs[0] < 0:
        return "it has other inputs or outputs than expected"
    tensors = model.subgraphs[reader.graph].tensors
    images, weights, output = tensors[inputs[0]], tensors[inputs[1]], tensors[outputs[0]]
    bias = tensors[inputs[2]] if len(inputs) > 2 and inputs[2] >= 0 else None
    options, float32 = reader.op.builtinOptions, schema.TensorType.FLOAT32
    if not isinstance(options, schema.Conv2DOptionsT):
        return "its options are another operator's"
    seen, shape = flatbuffer.indices(images.shape), flatbuffer.indices(weights.shape)
    checks = {
        "its activations are not float32": images.type == float32 and output.type == float32,
        "its weights do not have four axes": len(shape) == 4 and min(shape) >= 1,
        "its images do not have four axes": len(seen) == 4,
        "it is a grouped convolution": seen[3:] == shape[3:],
        f"dense kernels are faster for patches of several pixels and fewer than {_FEWEST_CHANNELS} channels": (
            shape[1:3] == [1, 1] or shape[3:] >= [_FEWEST_CHANNELS]
        ),
        "its bias is not float32 of the outputs' size": bias is None
        or (bias.type == float32 and flatbuffer.indices(bias.shape) == shape[:1]),
        "its fused activation is not none, ReLU, ReLU6 or ReLU -1...1": options.fusedActivationFunction in ACTIVATIONS,
        "its padding is neither same nor valid": options.padding in _PADDINGS,
        f"its kernel, strides or dilations are not from 1 to {convolution.LARGEST}": all(
            1 <= size <= convolution.LARGEST for size in [*shape[1:3], *_strides(options), *_dilations(options)]
        ),
    }
    return next((reason for reason, holds in checks.items() if not holds), "")


def pack_convolution(model: Any, view: View, packed: bytes) -> None:
    """Turns the operators that read a view into custom ones on packed weights.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        view: weights that only CONV_2D operators read.
        packed: the bytes that take their place.
    """
    number, index = view.places[0]
    height, width = flatbuffer.indices(model.subgraphs[number].tensors[index].shape)[1:3]
    code = edits.custom_code(model, target.CONVOLVE)
    tensors = edits.add_bytes(model, packed, {reader.graph for reader in view.readers}, name=name_of(model, view))
    for reader in view.readers:
        op, options = reader.op, reader.op.builtinOptions
        made = convolution.Options(
            (height, width),
            _strides(options),
            _dilations(options),
            _PADDINGS[options.padding],
            int(options.fusedActivationFunction),
        )
        op.opcodeIndex, op.builtinOptionsType, op.builtinOptions = code, 0, None
        op.customOptions = np.frombuffer(made.to_bytes(), np.uint8)
        inputs = [*flatbuffer.indices(op.inputs), -1][:3]
        op.inputs = np.array([inputs[0], tensors[reader.graph], inputs[2]], np.int32)


def _strides(options: Any) -> tuple[int, int]:
    return int(options.strideH), int(options.strideW)


def _dilations(options: Any) -> tuple[int, int]:
    return int(options.dilationHFactor), int(options.dilationWFactor)
