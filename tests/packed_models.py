"""Little .tflite models of packed operators, for the tests of the delegate."""

from __future__ import annotations

import dataclasses
import zlib

import flatbuffers
import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from keras_prune import native

OP_NAME = "KerasPruneFullyConnected"
FLOAT32, INT8, UINT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}


def random_codes(shape, density, size, *, seed=0):
    """A coded matrix and its codebook."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, size, shape) * (rng.random(shape) < density)
    codebook = np.concatenate([[0], rng.standard_normal(size - 1)]).astype(np.float32)
    return codes.astype(np.uint8), codebook


def options_bytes(activation=0, *, keep_num_dims=False, version=1, reserved=0):
    head = bytes([version, activation, int(keep_num_dims), reserved])
    return head + zlib.crc32(head).to_bytes(4, "little")


@dataclasses.dataclass
class Tensor:
    """A tensor of the little model; with data it is a constant."""

    shape: list[int]
    dtype: int = FLOAT32
    data: bytes | None = None


@dataclasses.dataclass
class Node:
    """One packed operator."""

    tensors: list[Tensor | int | None]  # inputs after the activations; an int is another tensor, None is absent
    output: Tensor
    options: bytes = options_bytes()


def build(x: Tensor, nodes: list[Node], *, dynamic_batch=False) -> bytes:
    """A .tflite file in which each node's output is the next one's activations."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = OP_NAME, 1
    model.operatorCodes = [code]
    graph.tensors, graph.operators = [], []

    def add(tensor: Tensor | int | None) -> int:
        if not isinstance(tensor, Tensor):
            return -1 if tensor is None else tensor
        made = schema.TensorT()
        made.shape, made.type, made.buffer = tensor.shape, tensor.dtype, 0
        made.name = f"tensor{len(graph.tensors)}"
        if tensor.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(tensor.data, np.uint8)
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        elif dynamic_batch:
            made.shapeSignature = [-1, *tensor.shape[1:]]
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    current = add(x)
    graph.inputs = [current]
    for node in nodes:
        op = schema.OperatorT()
        op.inputs = [current, *(add(t) for t in node.tensors)]
        current = add(node.output)
        op.outputs, op.customOptions = [current], np.frombuffer(node.options, np.uint8)
        graph.operators.append(op)
    graph.outputs = [current]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def packed_tensor(packed: bytes) -> Tensor:
    return Tensor([len(packed)], UINT8, packed)


def bias_tensor(bias: np.ndarray) -> Tensor:
    return Tensor([len(bias)], FLOAT32, bias.astype(np.float32).tobytes())


def one_layer(packed, bias, x_shape, *, options=None, rows=None, dynamic_batch=False):
    """A file with one operator."""
    rows = int.from_bytes(packed[8:12], "little") if rows is None else rows  # at the same place in both versions
    node = Node([packed_tensor(packed), bias if bias is None else bias_tensor(bias)], Tensor([x_shape[0], rows]))
    node.options = options_bytes() if options is None else options
    return build(Tensor(list(x_shape)), [node], dynamic_batch=dynamic_batch)


def load(model: bytes, *, delegate=True, plugin_options=None) -> litert.Interpreter:
    delegates = [litert.load_delegate(str(native.delegate_path()), plugin_options)] if delegate else None
    return litert.Interpreter(model_content=model, experimental_delegates=delegates, num_threads=1)


def run(interpreter: litert.Interpreter, x: np.ndarray) -> np.ndarray:
    detail = interpreter.get_input_details()[0]
    if list(detail["shape"]) != list(x.shape):
        interpreter.resize_tensor_input(detail["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def dense_result(codes, codebook, x, *, bias=None, activation=0):
    y = x.astype(np.float64).reshape(-1, codes.shape[1]) @ codebook[codes].astype(np.float64).T
    return np.clip(y + (0 if bias is None else bias), *ACTIVATIONS[activation])


def assert_close(got, want):
    # Sums of at most a few hundred products of size 1 in float32, added in another order than NumPy's float64 ones.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def supported_isas():
    isas = []
    for isa in ("reference", "scalar", "avx2", "avx512"):
        try:
            litert.load_delegate(str(native.delegate_path()), {"isa": isa})
        except ValueError:
            continue
        isas.append(isa)
    return isas
