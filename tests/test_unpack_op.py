"""KerasPruneUnpack in LiteRT: what it makes is a constant like any other, and what it refuses."""

from __future__ import annotations

import gc
import struct

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from packed_bytes import seal  # type: ignore[import-not-found]
from packed_models import load, run  # type: ignore[import-not-found]
from unpack_models import (  # type: ignore[import-not-found]
    TYPES,
    Graph,
    add_conv,
    constants_model,
    conv_model,
    pack,
    random_weights,
    unpack_options,
)

from keras_prune import native, tensor_format

SHAPE = (7, 3, 3, 5)
BIAS = np.linspace(-1, 1, 7).astype(np.float32)


def images(batch=1, size=6, *, seed=3):
    return np.random.default_rng(seed).standard_normal((batch, size, size, 5)).astype(np.float32)


def outputs(interpreter):
    interpreter.allocate_tensors()
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_convolution_is_bit_identical_and_taken_by_xnnpack(dtype):
    weights = random_weights(SHAPE, dtype=dtype)
    dense, packed = (load(conv_model(weights, BIAS, packed=p), delegate=p) for p in (False, True))
    for batch in (1, 4, 1, 2):
        x = images(batch)
        assert run(packed, x).tobytes() == run(dense, x).tobytes()
    names = [[op["op_name"] for op in i._get_ops_details()] for i in (dense, packed)]
    assert names[0].count("DELEGATE") == 1  # XNNPACK's
    assert names[1].count("DELEGATE") == 2  # ours, and XNNPACK's


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("density", [0, 0.05, 0.5, 1])
def test_every_type_comes_back(dtype, density):
    values = [random_weights(shape, density=density, dtype=dtype) for shape in [(40, 30), (3, 4, 5, 6), (1, 7), (9,)]]
    for got, want in zip(outputs(load(constants_model(values))), values, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert got.tobytes() == want.tobytes()


def test_stored_float16_as_float32():
    values = random_weights((11, 13), dtype="float16")
    (got,) = outputs(load(constants_model([values], as_type="float32")))
    assert got.dtype == np.float32
    assert got.tobytes() == values.astype(np.float32).tobytes()


def test_codebook_and_scaled_weights():
    rng = np.random.default_rng(0)
    codes = (rng.integers(1, 16, (20, 33)) * (rng.random((20, 33)) < 0.2)).astype(np.uint8)
    codebook = np.r_[0, rng.standard_normal(15)].astype(np.float32)
    scaled = rng.integers(-127, 128, (20, 33)).astype(np.int8)
    scales = rng.random(20).astype(np.float32)
    packed = [tensor_format.encode_codes(codes, codebook), tensor_format.encode_scaled(scaled, scales)]
    want = [codebook[codes], scaled.astype(np.float32) * scales[:, None]]
    for got, expected in zip(outputs(load(constants_model(want, packed=packed))), want, strict=True):
        assert got.tobytes() == expected.tobytes()


def test_several_operators_in_several_subgraphs():
    graphs = {False: Graph(), True: Graph()}
    for seed in range(3):
        weights = random_weights(SHAPE, seed=seed)
        for packed, graph in graphs.items():
            add_conv(graph, weights, BIAS + seed, packed=packed)
            graph.model.signatureDefs = [*(graph.model.signatureDefs or []), signature(seed, graph.last)]
    x = images()
    got, want = (load(graphs[packed].finish(), delegate=packed) for packed in (True, False))
    for seed in range(3):
        results = [i.get_signature_runner(f"graph{seed}")(x=x)["y"] for i in (got, want)]
        assert results[0].tobytes() == results[1].tobytes()


def signature(number, graph):
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = f"graph{number}", number
    made.inputs, made.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    made.inputs[0].name, made.inputs[0].tensorIndex = "x", graph.inputs[0]
    made.outputs[0].name, made.outputs[0].tensorIndex = "y", graph.outputs[0]
    return made


def test_interpreters_of_one_file_end_in_any_order():
    model = conv_model(random_weights(SHAPE), BIAS, packed=True)
    x = images()
    want = run(load(model), x)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        interpreters = {i: load(model) for i in range(3)}
        for ended in order:
            for interpreter in interpreters.values():
                assert run(interpreter, x).tobytes() == want.tobytes()
            del interpreters[ended], interpreter
            gc.collect()


def broken_model(change):
    """The convolution with one thing wrong: ``change`` gets the graph and its operator."""
    graph = Graph()
    op = add_conv(graph, random_weights(SHAPE), BIAS, packed=True)
    change(graph, op)
    return graph.finish()


def set_packed(graph, op, data, *, which=0):
    tensor = graph.last.tensors[op.inputs[which]]
    graph.model.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)
    tensor.shape = [len(data)]


def output(graph, op, which=0):
    return graph.last.tensors[op.outputs[which]]


def make_constant(graph, op):
    buffer = schema.BufferT()
    buffer.data = np.zeros(4 * np.prod(SHAPE), np.uint8)
    output(graph, op).buffer = len(graph.model.buffers)
    graph.model.buffers.append(buffer)


def options(data):
    return lambda _graph, op: setattr(op, "customOptions", np.frombuffer(data, np.uint8))


def packed(data):
    return lambda graph, op: set_packed(graph, op, data)


def shape(values):
    return lambda graph, op: setattr(output(graph, op), "shape", values)


def write_one_output_twice(graph, op):
    set_packed(graph, op, GOOD, which=1)
    op.outputs = [op.outputs[0]] * 2


def take_all_away(_graph, op):
    op.inputs, op.outputs = [], []


def write_it_elsewhere_too(graph, op):
    op.outputs = [op.outputs[0], graph.last.outputs[0]]


GOOD = pack(random_weights(SHAPE))
OTHER_TYPE = pack(random_weights(SHAPE, dtype="int8"))
HUGE = seal(GOOD[:8] + struct.pack("<II", 2**31 - 1, 1) + GOOD[16:])
ERRORS = {
    "corrupt bytes": (packed(GOOD[:60] + bytes([GOOD[60] ^ 1]) + GOOD[61:]), "checksum"),
    "truncated": (packed(GOOD[:-1]), "truncated"),
    "other bytes": (packed(bytes(100)), "KPRI"),
    "version 1": (packed(GOOD[:4] + b"\1" + GOOD[5:]), "format version"),
    "another shape": (packed(pack(random_weights((7, 44)))), "expected 7 x 44 values .* got 315"),
    "a claim of many rows": (packed(HUGE), "sizes contradict|expected 2147483647 x 1 values"),
    "another type": (packed(OTHER_TYPE), "expected type 9 .* got 1"),
    "packed type": (lambda g, op: setattr(g.last.tensors[op.inputs[0]], "type", TYPES["int8"]), "expected uint8"),
    "packed rank": (
        lambda g, op: setattr(g.last.tensors[op.inputs[0]], "shape", [1, *g.last.tensors[op.inputs[0]].shape]),
        "got rank 2",
    ),
    "packed not constant": (lambda g, op: setattr(g.last.tensors[op.inputs[0]], "buffer", 0), "expected a constant"),
    "output type": (lambda g, op: setattr(output(g, op), "type", TYPES["int8"]), "expected type 0|expected type 1"),
    "output shape": (shape([7, 3, 3, 4]), "expected 7 x 45 values .* got 252"),
    "output without a shape": (shape([]), "expected a shape"),
    "open dimension": (
        lambda g, op: setattr(output(g, op), "shapeSignature", [7, 3, 3, -1]),
        "expected a fixed shape, got an open dimension 3",
    ),
    "a variable": (lambda g, op: setattr(output(g, op), "isVariable", True), "expected a tensor that only"),
    "a constant": (make_constant, "expected a tensor that only"),
    "one output twice": (write_one_output_twice, "expected a tensor that only"),
    "more inputs": (lambda g, op: setattr(op, "outputs", op.outputs[:1]), "got 2 inputs and 1 outputs"),
    "more outputs": (lambda g, op: setattr(op, "inputs", op.inputs[:1]), "got 1 inputs and 2 outputs"),
    "another writer": (write_it_elsewhere_too, "that only this operator writes, got one that is written 2 times"),
    "nothing": (take_all_away, "got 0 inputs and 0 outputs"),
    "no input": (lambda g, op: setattr(op, "inputs", [-1, op.inputs[1]]), "input or output 0 is missing"),
    "no options": (options(b""), "8 bytes of options, got 0"),
    "long options": (options(unpack_options() + b"\0"), "got 9"),
    "options version": (options(unpack_options(version=2)), "options version 1, got 2"),
    "options checksum": (options(unpack_options()[:-1] + b"\0"), "options' checksum"),
    "options flags": (options(unpack_options(reserved=b"\0\0\1")), "unknown flags 0 0 1"),
}


@pytest.mark.parametrize("what", list(ERRORS))
def test_refuses(what):
    change, message = ERRORS[what]
    with pytest.raises(RuntimeError, match=f"KerasPruneUnpack: .*{message}"):
        load(broken_model(change))


def test_every_truncation_and_every_flip_is_an_error():
    good = pack(random_weights((3, 8), density=0.3, dtype="int8"))
    values = [np.zeros((3, 8), np.int8)]
    damaged = [good[:n] for n in range(1, len(good))]
    for bit in range(8 * len(good)):
        damaged.append(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
    for buffer in damaged:
        with pytest.raises(RuntimeError, match="KerasPruneUnpack: packed weights"):
            load(constants_model(values, packed=[buffer]))


def test_every_flip_of_the_options_is_an_error():
    for bit in range(64):
        changed = bytearray(unpack_options())
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RuntimeError, match=r"KerasPruneUnpack: .*(options|flags)"):
            load(broken_model(options(bytes(changed))))


def test_an_error_leaves_the_process_well():
    bad, good = broken_model(packed(bytes(100))), conv_model(random_weights(SHAPE), BIAS, packed=True)
    x = images()
    want = run(load(good), x)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="KPRI"):
            load(bad)
        assert run(load(good), x).tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_without_xnnpack_too(dtype):
    weights, x = random_weights(SHAPE, dtype=dtype), images()
    resolver = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    results = []
    for packs in (False, True):
        delegates = [litert.load_delegate(str(native.delegate_path()))] if packs else None
        model = conv_model(weights, BIAS, packed=packs)
        interpreter = litert.Interpreter(
            model_content=model, experimental_delegates=delegates, experimental_op_resolver_type=resolver
        )
        results.append(run(interpreter, x).tobytes())
        assert len(interpreter._get_ops_details()) == (3 if packs else 1) + (dtype == "float16")
    assert results[0] == results[1]


def test_threads_and_the_weights_themselves():
    weights, x = random_weights(SHAPE), images()
    delegate = litert.load_delegate(str(native.delegate_path()))
    packed, dense = (conv_model(weights, BIAS, packed=p) for p in (True, False))
    interpreter = litert.Interpreter(model_content=packed, experimental_delegates=[delegate], num_threads=4)
    assert run(interpreter, x).tobytes() == run(load(dense, delegate=False), x).tobytes()
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    assert interpreter.get_tensor(indices["tensor1"]).tobytes() == weights.tobytes()


def test_one_delegate_for_several_interpreters():
    delegate = litert.load_delegate(str(native.delegate_path()))
    x = images()
    models = [conv_model(random_weights(SHAPE, seed=seed), BIAS, packed=True) for seed in range(2)]
    shared = [litert.Interpreter(model_content=m, experimental_delegates=[delegate]) for m in models]
    want = [run(load(m), x).tobytes() for m in models]
    assert [run(interpreter, x).tobytes() for interpreter in shared] == want
    del shared[0]
    gc.collect()
    assert run(shared[0], x).tobytes() == want[1]


def test_a_graph_of_very_many_operators_costs_nothing():
    graph = Graph()
    graph.subgraph()
    graph.last.inputs = graph.last.outputs = [graph.add([1])]
    for _ in range(4097):
        graph.operator(2, [], [])
    with pytest.raises(RuntimeError, match="at most 4096 packed operators in a graph, got 4097"):
        load(graph.finish())
