"""The stock file that a packed one stands for, made without the code that packs: the oracle of the export tests."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from keras_prune import sparse_format, tensor_format
from keras_prune_export import edits, flatbuffer, runtime
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.constants import OPERATORS

FLOAT32 = schema.TensorType.FLOAT32


def as_stock(data):
    """Every packed operator is the built-in one on dense weights again, and every expanded constant an ordinary one."""
    model = flatbuffer.read(data)
    for number in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        model.operatorCodes.append(code)
    for graph in model.subgraphs:
        kinds = [flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode) for op in graph.operators]
        for op, kind in zip(graph.operators, kinds, strict=True):
            if kind == target.COMPUTE:
                _as_fully_connected(model, graph, op)
            elif kind == target.CONVOLVE:
                _as_convolution(model, graph, op)
            elif kind == target.EXPAND:
                _expand(model, graph, op)
        graph.operators = [op for op, kind in zip(graph.operators, kinds, strict=True) if kind != target.EXPAND]
    edits.drop_unused_tensors(model)
    edits.drop_unused(model)
    return flatbuffer.write(model)


def _matrix(model, tensor):
    data = np.array(model.buffers[tensor.buffer].data)
    return sparse_format.to_dense(data) if data[4] == 1 else tensor_format.decode(data)


def _as_fully_connected(model, graph, op):
    version, activation, keep_num_dims, reserved, crc = struct.unpack("<BBBBI", bytes(op.customOptions))
    assert (version, reserved, crc) == (1, 0, zlib.crc32(bytes(op.customOptions)[:4]))
    _with_dense_weights(model, graph.tensors[op.inputs[1]])
    op.opcodeIndex, op.customOptions = len(model.operatorCodes) - 1, None
    op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    op.builtinOptions = schema.FullyConnectedOptionsT()
    op.builtinOptions.fusedActivationFunction, op.builtinOptions.keepNumDims = activation, bool(keep_num_dims)


def _with_dense_weights(model, weights, *axes):
    """Rows stay; columns are split into these axes."""
    if weights.type == schema.TensorType.UINT8:  # else it was seen before
        dense = _matrix(model, weights)
        dense = dense.reshape(len(dense), *axes, -1) if axes else dense
        weights.type, weights.shape = FLOAT32, np.array(dense.shape, np.int32)
        weights.buffer = edits.add_buffer(model, dense.tobytes())


def _as_convolution(model, graph, op):
    version, activation, padding, *sizes, reserved, crc = struct.unpack("<BBBx6BHI", bytes(op.customOptions))
    assert (version, reserved, crc) == (1, 0, zlib.crc32(bytes(op.customOptions)[:12]))
    _with_dense_weights(model, graph.tensors[op.inputs[1]], *sizes[:2])
    if op.inputs[2] < 0:  # the built-in one needs a bias
        zeros = schema.TensorT()
        zeros.name, zeros.type, zeros.shape = "zeros", FLOAT32, graph.tensors[op.inputs[1]].shape[:1]
        zeros.buffer = edits.add_buffer(model, bytes(4 * int(zeros.shape[0])))
        graph.tensors.append(zeros)
        op.inputs = np.array([*op.inputs[:2], len(graph.tensors) - 1], np.int32)
    op.opcodeIndex, op.customOptions = len(model.operatorCodes) - 2, None
    op.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    options = op.builtinOptions = schema.Conv2DOptionsT()
    options.fusedActivationFunction, options.padding = activation, padding
    options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor = sizes[2:]


def _expand(model, graph, op):
    assert bytes(op.customOptions) == b"\x01\0\0\0" + zlib.crc32(b"\x01\0\0\0").to_bytes(4, "little")
    assert len(op.inputs) == len(op.outputs) == len(set(op.outputs))
    for source, index in zip(op.inputs, op.outputs, strict=True):
        tensor = graph.tensors[index]
        assert tensor.buffer == 0
        assert tensor.sparsity is None
        matrix = _matrix(model, graph.tensors[source])
        assert matrix.shape == tensor_format.as_matrix_shape(tensor.shape)
        dtype = np.dtype(flatbuffer.DTYPES[tensor.type])
        assert matrix.dtype == dtype or (matrix.dtype == np.float16 and dtype == np.float32)
        tensor.buffer = edits.add_buffer(model, matrix.astype(dtype).tobytes())


def weights_of(data):
    """The dense float weights of a file by tensor name, through the oracle."""
    model = flatbuffer.read(as_stock(data))
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors if tensor.type in flatbuffer.DTYPES]
    constants = [t for t in tensors if model.buffers[t.buffer].data is not None and t.sparsity is None]
    return {flatbuffer.text(tensor.name): flatbuffer.constant(model, tensor) for tensor in constants}


def operators(data):
    """The names of the operators of a file's first subgraph."""
    model = flatbuffer.read(data)
    return [OPERATORS[flatbuffer.builtin_code(model, op)] for op in model.subgraphs[0].operators]


def run(data, *inputs):
    """All outputs of one inference, by tensor name; without inputs given, seeded random ones from 0 to 8."""
    interpreter = runtime.load_interpreter(data)
    details = interpreter.get_input_details()
    rng = np.random.default_rng(0)
    if not inputs:
        inputs = [8 * rng.random(size=np.abs(d["shape_signature"])) for d in details]
        inputs = [values.astype(d["dtype"]) for values, d in zip(inputs, details, strict=True)]
    for detail, values in zip(details, inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], values.shape)
    interpreter.allocate_tensors()
    for detail, values in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def assert_same(got, want):
    """The same outputs up to float32 sums of up to a few hundred terms in another order."""
    assert got.keys() == want.keys()
    for name in got:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def assert_equal(got, want):
    """The same outputs bit for bit."""
    assert got.keys() == want.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], want[name], strict=True)
