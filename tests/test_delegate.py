"""The delegate in LiteRT: packed operators against NumPy, every check, and what the library needs."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zlib

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from keras_prune import native, sparse_format

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
    rows = sparse_format.read_header(packed).rows if rows is None else rows
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


@pytest.fixture
def layer():
    codes, codebook = random_codes((30, 100), 0.1, 16)
    return codes, codebook, sparse_format.encode(codes, codebook)


@pytest.mark.parametrize("isa", ["reference", "scalar", "avx2", "avx512"])
@pytest.mark.parametrize(("shape", "density", "size"), [((300, 784), 0.06, 16), ((10, 100), 0.3, 256), ((1, 7), 1, 4)])
def test_matches_dense(isa, *, shape, density, size):
    if isa not in supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    rows, cols = shape
    codes, codebook = random_codes(shape, density, size)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(rows).astype(np.float32)
    model = one_layer(sparse_format.encode(codes, codebook), bias, (1, cols))
    interpreter = load(model, plugin_options={"isa": isa})
    for batch in (1, 3, 17, 1):
        x = rng.standard_normal((batch, cols)).astype(np.float32)
        got = run(interpreter, x)
        assert got.shape == (batch, rows)
        np.testing.assert_allclose(got, dense_result(codes, codebook, x, bias=bias), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("with_bias", [True, False])
def test_activation_and_bias(layer, activation, with_bias):
    codes, codebook, packed = layer
    bias = np.linspace(-2, 2, 30).astype(np.float32) if with_bias else None
    x = np.random.default_rng(2).standard_normal((4, 100)).astype(np.float32) * 3
    got = run(load(one_layer(packed, bias, (4, 100), options=options_bytes(activation))), x)
    assert_close(got, dense_result(codes, codebook, x, bias=bias, activation=activation))


def test_two_inputs_are_a_layer_without_bias(layer):
    codes, codebook, packed = layer
    model = build(Tensor([2, 100]), [Node([packed_tensor(packed)], Tensor([2, 30]))])
    x = np.random.default_rng(2).standard_normal((2, 100)).astype(np.float32)
    assert_close(run(load(model), x), dense_result(codes, codebook, x))


@pytest.mark.parametrize(
    ("x_shape", "keep", "expected"),
    [
        ((2, 3, 100), True, (2, 3, 30)),
        ((2, 3, 100), False, (6, 30)),
        ((4, 5, 20), False, (4, 30)),
        ((100,), False, (1, 30)),
        ((100,), True, (30,)),
        ((1, 1, 1, 100), True, (1, 1, 1, 30)),
    ],
)
def test_output_shape(layer, *, x_shape, keep, expected):
    codes, codebook, packed = layer
    model = one_layer(packed, None, x_shape, options=options_bytes(keep_num_dims=keep))
    x = np.random.default_rng(2).standard_normal(x_shape).astype(np.float32)
    got = run(load(model), x)
    assert got.shape == expected
    assert_close(got.reshape(-1, 30), dense_result(codes, codebook, x))


def test_a_net_with_a_dynamic_batch():
    shapes = [((64, 100), 0.1), ((20, 64), 0.2), ((5, 20), 1.0)]
    layers = [random_codes(*shape, 16, seed=seed) for seed, shape in enumerate(shapes)]
    nodes = []
    for codes, codebook in layers:
        output = Tensor([1, len(codes)])
        nodes.append(Node([packed_tensor(sparse_format.encode(codes, codebook)), None], output, options_bytes(1)))
    interpreter = load(build(Tensor([1, 100]), nodes, dynamic_batch=True))
    for batch in (1, 8, 2, 0, 33):
        x = want = np.random.default_rng(batch).standard_normal((batch, 100)).astype(np.float32)
        for codes, codebook in layers:
            want = dense_result(codes, codebook, want, activation=1)
        got = run(interpreter, x)
        assert got.shape == (batch, 5)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)  # three layers: errors add up


def test_one_file_in_several_interpreters(layer):
    codes, codebook, packed = layer
    model = one_layer(packed, None, (1, 100))
    x = np.random.default_rng(2).standard_normal((1, 100)).astype(np.float32)
    interpreters = [load(model) for _ in range(3)]
    for interpreter in interpreters:
        assert_close(run(interpreter, x), dense_result(codes, codebook, x))


def test_nothing_leaks_from_pruned_positions(layer):
    codes, _, packed = layer
    model = one_layer(packed, None, (1, 100))
    column = int(np.argmin((codes != 0).sum(0)))
    for value in (np.inf, -np.inf, np.nan):
        x = np.ones((1, 100), np.float32)
        x[0, column] = value
        got = run(load(model), x)[0]
        assert np.array_equal(np.isfinite(got), codes[:, column] == 0)


def test_all_pruned_and_nothing_pruned():
    for density in (0, 1):
        codes, codebook = random_codes((17, 33), density, 16)
        x = np.random.default_rng(2).standard_normal((1, 33)).astype(np.float32)
        bias = np.arange(17, dtype=np.float32)
        got = run(load(one_layer(sparse_format.encode(codes, codebook), bias, (1, 33))), x)
        assert_close(got, dense_result(codes, codebook, x, bias=bias))


def corrupt(packed: bytes, at: int) -> bytes:
    return packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]


def node_of(layer, **changes):
    node = Node([packed_tensor(layer[2]), bias_tensor(np.zeros(30))], Tensor([1, 30]))
    return dataclasses.replace(node, **changes)


ERRORS = {
    "corrupt bytes": (lambda n: n.tensors.__setitem__(0, packed_tensor(corrupt(n.tensors[0].data, 60))), "checksum"),
    "truncated": (lambda n: n.tensors.__setitem__(0, packed_tensor(n.tensors[0].data[:-1])), "truncated"),
    "a few bytes": (lambda n: n.tensors.__setitem__(0, packed_tensor(b"KPRI")), "truncated"),
    "other bytes": (lambda n: n.tensors.__setitem__(0, packed_tensor(bytes(100))), "KPRI"),
    "packed type": (lambda n: setattr(n.tensors[0], "dtype", INT8), "expected uint8"),
    "packed rank": (lambda n: setattr(n.tensors[0], "shape", [1, len(n.tensors[0].data)]), "got rank 2"),
    "packed not constant": (lambda n: n.tensors.__setitem__(0, Tensor([500], UINT8)), "expected a constant"),
    "packed is x": (lambda n: n.tensors.__setitem__(0, 0), "expected uint8"),
    "bias length": (lambda n: n.tensors.__setitem__(1, bias_tensor(np.zeros(29))), r"expected shape \[30\]"),
    "bias rank": (lambda n: setattr(n.tensors[1], "shape", [1, 30]), "got rank 2"),
    "bias type": (lambda n: n.tensors.__setitem__(1, Tensor([30], INT8, bytes(30))), "expected float32"),
    "output type": (lambda n: setattr(n.output, "dtype", INT8), "output .* expected float32"),
    "four inputs": (lambda n: n.tensors.append(bias_tensor(np.zeros(30))), "2 or 3 inputs, got 4"),
    "one input": (lambda n: n.tensors.clear(), "2 or 3 inputs, got 1"),
    "no options": (lambda n: setattr(n, "options", b""), "8 bytes of options, got 0"),
    "long options": (lambda n: setattr(n, "options", options_bytes() + b"\0"), "got 9"),
    "options version": (lambda n: setattr(n, "options", options_bytes(version=2)), "options version 1, got 2"),
    "options checksum": (lambda n: setattr(n, "options", corrupt(options_bytes(), 5)), "options' checksum"),
    "activation": (lambda n: setattr(n, "options", options_bytes(4)), "activation from 0 to 3, got 4"),
    "reserved": (lambda n: setattr(n, "options", options_bytes(reserved=1)), "unknown flags"),
}


@pytest.mark.parametrize("what", list(ERRORS))
def test_refuses(layer, what):
    change, message = ERRORS[what]
    node = node_of(layer)
    change(node)
    interpreter = load(build(Tensor([1, 100]), [node]))
    with pytest.raises(RuntimeError, match=f"KerasPruneFullyConnected: .*{message}"):
        interpreter.allocate_tensors()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (Tensor([1, 99]), options_bytes(), "expected 100 values in a row"),
        (Tensor([10, 10]), options_bytes(keep_num_dims=True), "expected 100 values in a row"),
        (Tensor([]), options_bytes(), "got a scalar"),
        (Tensor([1, 100], INT8), options_bytes(), "expected float32"),
    ],
)
def test_refuses_activations(layer, *, x, options, message):
    interpreter = load(build(x, [node_of(layer, options=options)]))
    with pytest.raises(RuntimeError, match=message):
        interpreter.allocate_tensors()


def test_a_wrong_resize_is_an_error_and_a_right_one_recovers(layer):
    codes, codebook, packed = layer
    interpreter = load(one_layer(packed, None, (1, 100), dynamic_batch=True))
    x = np.random.default_rng(2).standard_normal((2, 100)).astype(np.float32)
    assert_close(run(interpreter, x), dense_result(codes, codebook, x))
    with pytest.raises(RuntimeError, match="expected 100 values in a row"):
        run(interpreter, np.zeros((2, 101), np.float32))
    assert_close(run(interpreter, x), dense_result(codes, codebook, x))


def test_every_truncation_and_many_flips_are_errors():
    codes, codebook = random_codes((3, 40), 0.1, 4)
    packed = sparse_format.encode(codes, codebook)
    damaged = [packed[:n] for n in range(1, len(packed))]
    damaged += [corrupt(packed, at) for at in range(len(packed))]
    for buffer in damaged:
        interpreter = load(build(Tensor([1, 40]), [Node([packed_tensor(buffer), None], Tensor([1, 3]))]))
        with pytest.raises(RuntimeError, match="packed weights"):
            interpreter.allocate_tensors()


def test_without_the_delegate_the_runtime_says_so(layer):
    interpreter = load(one_layer(layer[2], None, (1, 100)), delegate=False)
    with pytest.raises(RuntimeError, match=f"Encountered unresolved custom op: {OP_NAME}"):
        interpreter.allocate_tensors()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isa": "mmx"}, "expected reference, scalar, avx2 or avx512, supported by this CPU, got 'mmx'"),
        ({"threads": 4}, "unknown option 'threads'"),
    ],
)
def test_plugin_options_are_checked(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        litert.load_delegate(str(native.delegate_path()), options)


def load_in_process_with(isa):
    script = "import sys; from ai_edge_litert.interpreter import load_delegate; load_delegate(sys.argv[1])"
    env = {**os.environ, "KERAS_PRUNE_ISA": isa}
    command = [sys.executable, "-c", script, str(native.delegate_path())]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_environment_variable_is_checked():
    assert load_in_process_with("scalar").returncode == 0
    failed = load_in_process_with("mmx")
    assert failed.returncode != 0
    assert "got 'mmx'" in failed.stderr


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (binutils)")
def test_the_library_needs_only_libc_and_shows_only_the_plugin():
    path = pathlib.Path(native.delegate_path())
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"NEEDED.*\[(.*)\]", dynamic) == ["libc.so.6"]
    symbols = subprocess.run(["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True, check=True).stdout
    defined = [line.split()[7] for line in symbols.splitlines() if re.search(r"(GLOBAL|WEAK)\s+DEFAULT\s+\d+", line)]
    assert sorted(defined) == ["tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"]
