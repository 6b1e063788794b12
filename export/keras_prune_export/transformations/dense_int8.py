"""FULLY_CONNECTED and CONV_2D on dense int8 weights, the input quantized while they run: TFLite's dynamic range."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune.int8_activations import quantize_rows
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.transformations.constants import View

_OPS = schema.BuiltinOperator
# Which version of an operator says this; tflite-runtime 2.14 runs these, as all newer ones do. FULLY_CONNECTED's is the
# first with the option of keeping dimensions, CONV_2D's the first with float32 inputs and int8 weights of one scale.
_VERSIONS = {_OPS.FULLY_CONNECTED: 5, _OPS.CONV_2D: 2}


def quantized(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights in int8, as `keras_prune.int8_activations` has them: ``round(w / scale)``, ``scale = max|w| / 127``.

    Args:
        values: float32, finite.

    Returns:
        Codes, int8 from -127 to 127, in the same shape; and the scale, 1 where all weights are zero.
    """
    codes, scales = quantize_rows(values.reshape(1, -1))
    return codes.reshape(values.shape), float(scales[0]) or 1.0


def make_int8(model: Any, view: View, scale: float) -> None:
    """The operators that read a view expect its weights in int8.

    Args:
        model: ``ModelT`` object, edited in place; `unpack.unpack` puts the weights there.
        view: float32 weights that only FULLY_CONNECTED, or only CONV_2D operators read.
        scale: a step of the weights.
    """
    for number, index in view.places:
        tensor = model.subgraphs[number].tensors[index]
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
    for reader in view.readers:
        builtin = flatbuffer.builtin_code(model, reader.op)
        reader.op.opcodeIndex = _operator_code(model, builtin)
        if builtin == _OPS.FULLY_CONNECTED:
            _quantize_symmetrically(reader.op)


def has_dense_int8(model: Any) -> bool:
    """Whether an operator has float32 inputs and int8 weights, as `make_int8` makes them.

    Args:
        model: ``ModelT`` object.
    """
    return any(_is_dense_int8(model, graph, op) for graph in model.subgraphs for op in graph.operators or ())


def _is_dense_int8(model: Any, graph: Any, op: Any) -> bool:
    inputs = flatbuffer.indices(op.inputs)[:2]
    if flatbuffer.builtin_code(model, op) not in _VERSIONS or len(inputs) < 2 or min(inputs) < 0:
        return False
    return [graph.tensors[index].type for index in inputs] == [schema.TensorType.FLOAT32, schema.TensorType.INT8]


def _quantize_symmetrically(op: Any) -> None:
    if op.builtinOptions is None:
        op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        op.builtinOptions = schema.FullyConnectedOptionsT()
    op.builtinOptions.asymmetricQuantizeInputs = False


def _operator_code(model: Any, builtin: int) -> int:
    """The index of an operator in its version, added when it is not there."""
    version = _VERSIONS[builtin]
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version == version and not flatbuffer.text(code.customCode):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
