"""What FULLY_CONNECTED and CONV_2D have in common where they become custom operators on packed weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.transformations.constants import Reader, View

# TFLite's activations that the operators have; the numbers are the same in their options.
ACTIVATIONS = {
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU_N1_TO_1,
    schema.ActivationFunctionType.RELU6,
}


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of one operator; ``bias`` may be None."""

    x: Any
    weights: Any
    output: Any
    bias: Any

    @property
    def shape(self) -> list[int]:
        """Of the weights."""
        return flatbuffer.indices(self.weights.shape)


def tensors_of(model: Any, reader: Reader) -> Tensors | None:
    """The tensors of an operator; None: it has other inputs or outputs than expected.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
    """
    inputs, outputs = flatbuffer.indices(reader.op.inputs), flatbuffer.indices(reader.op.outputs)
    if len(inputs) < 2 or min(inputs[:2]) < 0 or len(outputs) != 1 or outputs[0] < 0:
        return None
    tensors = model.subgraphs[reader.graph].tensors
    bias = tensors[inputs[2]] if len(inputs) > 2 and inputs[2] >= 0 else None
    return Tensors(tensors[inputs[0]], tensors[inputs[1]], tensors[outputs[0]], bias)


def checks(tensors: Tensors, options: Any) -> dict[str, bool]:
    """What must hold for either operator, by what is said where it does not.

    Args:
        tensors: of the operator.
        options: its ``builtinOptions``.
    """
    float32 = schema.TensorType.FLOAT32
    bias = tensors.bias
    return {
        "its activations are not float32": tensors.x.type == float32 and tensors.output.type == float32,
        "its bias is not float32 of the outputs' size": bias is None
        or (bias.type == float32 and flatbuffer.indices(bias.shape) == tensors.shape[:1]),
        "its fused activation is not none, ReLU, ReLU6 or ReLU -1...1": getattr(options, "fusedActivationFunction", 0)
        in ACTIVATIONS,
    }


def first_problem(found: dict[str, bool]) -> str:
    """The first text that does not hold, or nothing."""
    return next((reason for reason, holds in found.items() if not holds), "")


def replace(model: Any, view: View, packed: bytes, *, name: str, options: Callable[[Any], bytes]) -> None:
    """Turns the operators that read a view into custom ones on packed weights.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        view: weights that only operators of one kind read.
        packed: the bytes that take their place.
        name: of the custom operator.
        options: built-in options -> custom ones.
    """
    code = edits.custom_code(model, name)
    tensors = edits.add_bytes(model, packed, {reader.graph for reader in view.readers}, name=name_of(model, view))
    for reader in view.readers:
        op, data = reader.op, options(reader.op.builtinOptions)
        op.opcodeIndex, op.builtinOptionsType, op.builtinOptions = code, 0, None
        op.customOptions = np.frombuffer(data, np.uint8)
        inputs = [*flatbuffer.indices(op.inputs), -1][:3]
        op.inputs = np.array([inputs[0], tensors[reader.graph], inputs[2]], np.int32)


def name_of(model: Any, view: View) -> str:
    """What a view's weights are called."""
    number, index = view.places[0]
    return flatbuffer.text(model.subgraphs[number].tensors[index].name)
