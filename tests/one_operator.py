"""A .tflite model of one operator, made by hand, for each operator whose weights are packed."""

from __future__ import annotations

import dataclasses

import numpy as np
from tflite_models import buffer, tensor  # type: ignore[import-not-found]

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema

TYPES = {np.dtype(dtype): kind for kind, dtype in flatbuffer.DTYPES.items()} | {
    np.dtype(np.int32): schema.TensorType.INT32
}


@dataclasses.dataclass
class Variable:
    """A state of the operator."""

    shape: tuple[int, ...]


def sparse_weights(*shape, density=0.2, seed=0):
    """Random weights, most of them pruned."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * (rng.random(shape) < density)
    return (values + 0).astype(np.float32)  # +0 for -0


def model_of(name, options, inputs, *, x_dtype=np.float32, output, version=1):
    """The model; ``inputs`` are constants, shapes (the input), `Variable` or None; ``options`` are fields by name."""
    model, graph, op = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [buffer()]
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    model.operatorCodes = [code]
    graph.name, graph.tensors, op.inputs = "main", [], []
    for number, value in enumerate(inputs):
        if value is None:
            op.inputs.append(-1)
            continue
        if isinstance(value, np.ndarray):
            model.buffers.append(buffer(value))
            made = tensor(f"constant{number}", value.shape, len(model.buffers) - 1, kind=TYPES[value.dtype])
        elif isinstance(value, Variable):
            made = tensor(f"state{number}", value.shape, 0)
            made.isVariable = True
        else:
            made = tensor("x", value, 0, kind=TYPES[np.dtype(x_dtype)])
            graph.inputs = np.array([len(graph.tensors)], np.int32)
        op.inputs.append(len(graph.tensors))
        graph.tensors.append(made)
    graph.tensors.append(tensor("y", output, 0))
    op.inputs, op.outputs = np.array(op.inputs, np.int32), np.array([len(graph.tensors) - 1], np.int32)
    graph.outputs = op.outputs
    if options:
        kind, fields = options
        op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        op.builtinOptions = getattr(schema, f"{kind}T")()
        for field, value in fields.items():
            setattr(op.builtinOptions, field, value)
    graph.operators = [op]
    return model


def _strides(*axes, size=1):
    return {f"stride{axis}": size for axis in axes} | {"padding": 0}


def _dilations(*axes):
    return {f"dilation{axis}Factor": 1 for axis in axes}


def lstm():
    """Input, 8 matrices, no peepholes, 4 biases, no projection, 2 states."""
    matrices = [sparse_weights(16, size, seed=size + k) for size in (12, 16) for k in range(4)]
    biases = [np.full(16, value, np.float32) for value in (0.1, 1, 0, -0.1)]
    states = [Variable((1, 16)), Variable((1, 16))]
    inputs = [(1, 5, 12), *matrices, None, None, None, *biases, None, None, *states]
    fields = {"fusedActivationFunction": 4, "cellClip": 0.0, "projClip": 0.0, "timeMajor": False}
    options = ("UnidirectionalSequenceLSTMOptions", fields)
    return model_of("UNIDIRECTIONAL_SEQUENCE_LSTM", options, inputs, output=(1, 5, 16))


MODELS = {
    "CONV_2D": lambda: model_of(
        "CONV_2D",
        ("Conv2DOptions", _strides("W", "H") | _dilations("W", "H")),
        [(1, 6, 6, 8), sparse_weights(16, 3, 3, 8), np.arange(16, dtype=np.float32)],
        output=(1, 6, 6, 16),
    ),
    "DEPTHWISE_CONV_2D": lambda: model_of(
        "DEPTHWISE_CONV_2D",
        ("DepthwiseConv2DOptions", _strides("W", "H") | _dilations("W", "H") | {"depthMultiplier": 1}),
        [(1, 6, 6, 96), sparse_weights(1, 3, 3, 96), np.zeros(96, np.float32)],
        output=(1, 6, 6, 96),
    ),
    "TRANSPOSE_CONV": lambda: model_of(
        "TRANSPOSE_CONV",
        ("TransposeConvOptions", _strides("W", "H", size=2)),
        [np.array([1, 8, 8, 16], np.int32), sparse_weights(16, 3, 3, 8), (1, 4, 4, 8)],
        output=(1, 8, 8, 16),
    ),
    "CONV_3D": lambda: model_of(
        "CONV_3D",
        ("Conv3DOptions", _strides("D", "W", "H") | _dilations("D", "W", "H")),
        [(1, 3, 4, 4, 8), sparse_weights(2, 2, 2, 8, 16), np.zeros(16, np.float32)],
        output=(1, 3, 4, 4, 16),
    ),
    "GATHER": lambda: model_of(
        "GATHER",
        ("GatherOptions", {"axis": 0, "batchDims": 0}),
        [sparse_weights(100, 8), (7,)],
        x_dtype=np.int32,
        output=(7, 8),
    ),
    "EMBEDDING_LOOKUP": lambda: model_of(
        "EMBEDDING_LOOKUP", None, [(7,), sparse_weights(100, 8)], x_dtype=np.int32, output=(7, 8)
    ),
    "BATCH_MATMUL": lambda: model_of(
        "BATCH_MATMUL",
        ("BatchMatMulOptions", {"adjX": False, "adjY": False}),
        [(2, 5, 24), sparse_weights(2, 24, 16)],
        output=(2, 5, 16),
    ),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm,
}


def bytes_of(name):
    """The file of one of `MODELS`."""
    return flatbuffer.write(MODELS[name]())


def through(model, name, decoder, *, stored, kind=None):
    """The tensor of this name is now what an operator makes of a stored one, which is named `stored`."""
    graph = model.subgraphs[0]
    index = [t.name for t in graph.tensors].index(name)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, decoder)
    code.version = 3 if decoder == "DEQUANTIZE" else 1
    model.operatorCodes.append(code)
    values = flatbuffer.constant(model, graph.tensors[index])
    half = tensor(stored, values.shape, len(model.buffers), kind=graph.tensors[index].type if kind is None else kind)
    model.buffers.append(buffer(values.astype(flatbuffer.DTYPES[half.type])))
    graph.tensors[index].buffer = 0
    graph.tensors.append(half)
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs = len(model.operatorCodes) - 1, np.array([len(graph.tensors) - 1], np.int32)
    op.outputs = np.array([index], np.int32)
    graph.operators = [op, *graph.operators]
    return half


def with_float16(model, name):
    """Weights in float16, which DEQUANTIZE makes float32: what the converter's float16 mode writes."""
    return through(model, name, "DEQUANTIZE", stored=f"{name}/half", kind=schema.TensorType.FLOAT16)


def fully_connected(shape=(24, 400)):
    """A file of one sparse layer."""
    inputs = [(1, shape[1]), sparse_weights(*shape), None]
    return flatbuffer.write(model_of("FULLY_CONNECTED", ("FullyConnectedOptions", {}), inputs, output=(1, shape[0])))
