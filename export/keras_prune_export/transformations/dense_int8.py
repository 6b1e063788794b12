"""FULLY_CONNECTED on dense int8 weights, its input quantized while it runs: what TFLite calls dynamic range."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune.int8_activations import quantize_rows
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.transformations.constants import View

# The first version that has the option of keeping dimensions; tflite-runtime 2.14 runs it, as all newer ones.
_VERSION = 5


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
        view: float32 weights that only FULLY_CONNECTED operators read.
        scale: a step of the weights.
    """
    for number, index in view.places:
        tensor = model.subgraphs[number].tensors[index]
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.array([0], np.int64)
    for reader in view.readers:
        op = reader.op
        op.opcodeIndex = _operator_code(model)
        if op.builtinOptions is None:
            op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            op.builtinOptions = schema.FullyConnectedOptionsT()
        op.builtinOptions.asymmetricQuantizeInputs = False


def _operator_code(model: Any) -> int:
    """The index of this version of the operator, added when it is not there."""
    builtin = schema.BuiltinOperator.FULLY_CONNECTED
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version == _VERSION and not flatbuffer.text(code.customCode):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = _VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
