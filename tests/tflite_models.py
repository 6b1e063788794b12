"""Small .tflite models made by hand, for the tests of readers and graph edits."""

from __future__ import annotations

import numpy as np

from keras_prune_export.flatbuffer import schema


def tensor(name, shape, buffer, *, kind=schema.TensorType.FLOAT32):
    result = schema.TensorT()
    result.name, result.shape, result.buffer, result.type = name, np.array(shape, np.int32), buffer, kind
    result.hasRank = True
    result.quantization = schema.QuantizationParametersT()
    return result


def fully_connected(inputs, outputs, *, activation=0, keep_num_dims=False):
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 1, np.array(inputs, np.int32), np.array(outputs, np.int32)
    op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    op.builtinOptions = schema.FullyConnectedOptionsT()
    op.builtinOptions.fusedActivationFunction = activation
    op.builtinOptions.keepNumDims = keep_num_dims
    return op


def buffer(values=None):
    result = schema.BufferT()
    result.data = None if values is None else np.frombuffer(np.asarray(values).tobytes(), np.uint8)
    return result


def graph(name, tensors, ops):
    result = schema.SubGraphT()
    result.name, result.tensors, result.operators = name, tensors, ops
    result.inputs, result.outputs = np.array([0], np.int32), np.array([len(tensors) - 1], np.int32)
    return result


def small_model(weights, *, activation=0, keep_num_dims=False, second_weights=None):
    """Two subgraphs (x -> FC -> y), a signature for each, the user's metadata, an unused buffer and operator code."""
    rows, cols = weights.shape
    bias = np.arange(rows, dtype=np.float32)
    model = schema.ModelT()
    model.version, model.description = 3, "hand-made"
    model.operatorCodes = []
    for number in (schema.BuiltinOperator.ADD, schema.BuiltinOperator.FULLY_CONNECTED):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        model.operatorCodes.append(code)
    second = weights if second_weights is None else second_weights
    model.buffers = [
        *[buffer() for _ in range(3)],
        buffer(weights.astype(np.float32)),
        buffer(bias),
        buffer(np.frombuffer(b"user's note", np.uint8)),
        buffer(np.frombuffer(b"nobody refers to this", np.uint8)),
        buffer(second.astype(np.float32)),
    ]
    model.subgraphs = []
    for number, weight_buffer in enumerate((3, 7 if second_weights is not None else 3)):
        tensors = [
            tensor("x", [1, cols], 1),
            tensor(f"w{number};fused;name", [rows, cols], weight_buffer),
            tensor("bias", [rows], 4),
            tensor("y", [1, rows], 2),
        ]
        op = fully_connected([0, 1, 2], [3], activation=activation, keep_num_dims=keep_num_dims)
        model.subgraphs.append(graph(f"graph{number}", tensors, [op]))
    model.signatureDefs = [signature(number) for number in range(2)]
    entry = schema.MetadataT()
    entry.name, entry.buffer = "note", 5
    model.metadata = [entry]
    return model


def signature(number):
    result = schema.SignatureDefT()
    result.signatureKey, result.subgraphIndex = f"signature{number}", number
    result.inputs, result.outputs = [tensor_map("x", 0)], [tensor_map("y", 3)]
    return result


def tensor_map(name, index):
    result = schema.TensorMapT()
    result.name, result.tensorIndex = name, index
    return result


def sparse(rows=24, cols=40, *, density=0.2, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.float32([-0.5, -0.25, 0.25, 1.0]), (rows, cols))
    return values * (rng.random((rows, cols)) < density)
