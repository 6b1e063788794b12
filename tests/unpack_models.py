"""Little .tflite models with KerasPruneUnpack: y = CONV_2D(x, w, bias), the weights packed or not."""

from __future__ import annotations

import zlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_prune import tensor_format

OP_NAME = "KerasPruneUnpack"
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
}
_CONV, _DEQUANTIZE, _CUSTOM = 0, 1, 2  # operator codes of these models


def unpack_options(*, version=1, reserved=bytes(3)):
    head = bytes([version]) + reserved
    return head + zlib.crc32(head).to_bytes(4, "little")


def random_weights(shape, *, density=0.3, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * (40 if dtype in ("int8", "uint8") else 1)
    kept = rng.random(shape) < density
    return np.where(kept, values.astype(dtype), np.zeros((), dtype))


def pack(values: np.ndarray) -> bytes:
    return tensor_format.encode_exact(values.reshape(tensor_format.as_matrix_shape(values.shape)))


class Graph:
    """A model of one or more subgraphs under construction; `add` and `operator` work on the last one."""

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs, self.model.buffers = 3, [], [schema.BufferT()]
        self.model.operatorCodes = []
        for number in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEQUANTIZE):
            self._code(number, None)
        self._code(schema.BuiltinOperator.CUSTOM, OP_NAME)

    def _code(self, number, name):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.customCode, code.version = name, 1
        self.model.operatorCodes.append(code)

    def subgraph(self):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.subgraphs.append(graph)

    @property
    def last(self):
        return self.model.subgraphs[-1]

    def add(self, shape, dtype="float32", data=None):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), TYPES[dtype], 0
        tensor.name, tensor.hasRank = f"tensor{len(self.last.tensors)}", True
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.last.tensors.append(tensor)
        return len(self.last.tensors) - 1

    def operator(self, code, inputs, outputs, *, first=False):
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = code, list(inputs), list(outputs)
        self.last.operators.insert(0 if first else len(self.last.operators), op)
        return op

    def conv(self, x, weights, bias, *, y_shape):
        y = self.add(y_shape)
        op = self.operator(_CONV, [x, weights, bias], [y])
        op.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        op.builtinOptions = schema.Conv2DOptionsT()
        op.builtinOptions.padding = schema.Padding.SAME
        op.builtinOptions.strideH = op.builtinOptions.strideW = 1
        return y

    def dequantize(self, x, shape):
        y = self.add(shape)
        self.operator(_DEQUANTIZE, [x], [y])
        return y

    def unpack(self, buffers, outputs, *, options=None):
        packed = [self.add([len(buffer)], "uint8", buffer) for buffer in buffers]
        op = self.operator(_CUSTOM, packed, outputs, first=True)
        op.customOptions = np.frombuffer(unpack_options() if options is None else options, np.uint8)
        return op

    def finish(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def add_conv(graph, weights, bias, *, packed, size=6):
    """Adds a subgraph with one convolution; weights of float16 pass a DEQUANTIZE. Returns the operator that unpacks."""
    graph.subgraph()
    x = graph.add([1, size, size, weights.shape[-1]])
    tensors = []
    for values in (weights, bias):
        tensors.append(graph.add(values.shape, values.dtype.name, None if packed else values.tobytes()))
    w = graph.dequantize(tensors[0], weights.shape) if weights.dtype == np.float16 else tensors[0]
    y = graph.conv(x, w, tensors[1], y_shape=[1, size, size, weights.shape[0]])
    graph.last.inputs, graph.last.outputs = [x], [y]
    return graph.unpack([pack(weights), pack(bias)], tensors) if packed else None


def conv_model(weights, bias, *, packed, size=6):
    graph = Graph()
    add_conv(graph, weights, bias, packed=packed, size=size)
    return graph.finish()


def constants_model(values: list[np.ndarray], *, packed: list[bytes] | None = None, as_type=None) -> bytes:
    """A file whose outputs are its unpacked tensors themselves."""
    graph = Graph()
    graph.subgraph()
    outputs = [graph.add(v.shape, as_type or v.dtype.name) for v in values]
    graph.last.inputs, graph.last.outputs = [graph.add([1])], outputs
    graph.unpack(packed or [pack(v) for v in values], outputs)
    return graph.finish()
