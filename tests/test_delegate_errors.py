"""The delegate in LiteRT: everything that it refuses."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensor_bytes  # type: ignore[import-not-found]
from ai_edge_litert import interpreter as litert
from packed_bytes import REFUSED, TINY, refused_bytes  # type: ignore[import-not-found]
from packed_models import (  # type: ignore[import-not-found]
    FLOAT32,
    INT8,
    OP_NAME,
    UINT8,
    Node,
    Tensor,
    assert_close,
    bias_tensor,
    build,
    dense_result,
    load,
    one_layer,
    options_bytes,
    packed_tensor,
    random_codes,
    run,
)

from keras_prune import native, sparse_format, tensor_format

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


@pytest.fixture
def layer():
    codes, codebook = random_codes((30, 100), 0.1, 16)
    return codes, codebook, sparse_format.encode(codes, codebook)


def corrupt(packed: bytes, at: int) -> bytes:
    return packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]


def node_of(layer, **changes):
    node = Node([packed_tensor(layer[2]), bias_tensor(np.zeros(30))], Tensor([1, 30]))
    return dataclasses.replace(node, **changes)


def static(flags=0, *, scale=1.0):
    """Options with a scale of x, for int8 activations."""
    head, step = bytes([2, flags]), np.float32(scale).tobytes()
    return head + zlib.crc32(head + step).to_bytes(4, "little")[:2] + step


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
    "options version": (
        lambda n: setattr(n, "options", options_bytes(version=3)),
        "options version 1 or 2, got 3; install",
    ),
    "options checksum": (lambda n: setattr(n, "options", corrupt(options_bytes(), 5)), "options' checksum"),
    "activation": (lambda n: setattr(n, "options", options_bytes(4)), "activation from 0 to 3, got 4"),
    "constant output": (lambda n: setattr(n.output, "data", bytes(120)), "output .* expected a tensor to write to"),
    "output size": (lambda n: setattr(n.output, "shape", [1, 29]), "output .* last dimension of 30 .* got 29"),
    "arithmetic": (lambda n: setattr(n, "options", options_bytes(reserved=3)), "unknown arithmetic 3; install"),
    "static flags": (lambda n: setattr(n, "options", static(8)), "unknown flags 8; install"),
    "scale of zero": (lambda n: setattr(n, "options", static(scale=0)), "expected a scale above 0, got 0"),
    "negative scale": (lambda n: setattr(n, "options", static(scale=-1)), "expected a scale above 0, got -1"),
    "infinite scale": (lambda n: setattr(n, "options", static(scale=np.inf)), "expected a scale above 0, got inf"),
    "scale that is NaN": (lambda n: setattr(n, "options", static(scale=np.nan)), "expected a scale above 0, got -?nan"),
    "scale's checksum": (lambda n: setattr(n, "options", corrupt(static(scale=1), 6)), "options' checksum"),
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


@pytest.mark.parametrize("what", list(REFUSED))
def test_every_broken_rule_is_an_error(what):
    node = Node([packed_tensor(refused_bytes(what)), None], Tensor([1, 2]))
    with pytest.raises(RuntimeError, match="packed weights tensor1: "):
        load(build(Tensor([1, 3]), [node])).allocate_tensors()


@pytest.mark.parametrize("what", list(tensor_bytes.REFUSED))
def test_every_broken_rule_of_version_2_is_an_error(what):
    node = Node([packed_tensor(tensor_bytes.REFUSED[what][0]), None], Tensor([1, 2]))
    with pytest.raises(RuntimeError, match=r"packed weights tensor1: |expected 3 values in a row|dimension of"):
        load(build(Tensor([1, 3]), [node])).allocate_tensors()


def test_every_truncation_and_flip_of_version_2_is_an_error():
    good = tensor_bytes.TINY_RANS
    damaged = [good[:n] for n in range(1, len(good))]
    damaged += [corrupt(good, at) for at in range(len(good))]
    for buffer in damaged:
        interpreter = load(build(Tensor([1, 3]), [Node([packed_tensor(buffer), None], Tensor([1, 2]))]))
        with pytest.raises(RuntimeError, match="packed weights"):
            interpreter.allocate_tensors()


def test_version_2_without_a_codebook_is_another_operators():
    packed = tensor_format.encode_scaled(np.ones((2, 3), np.int8), np.ones(2, np.float32))
    with pytest.raises(RuntimeError, match=r"expected values of a codebook \(0\), got kind 1"):
        load(one_layer(packed, None, (1, 3))).allocate_tensors()


def test_version_2_needs_the_number_of_rows_in_the_file():
    model = build(Tensor([1, 3]), [Node([packed_tensor(tensor_bytes.TINY), None], Tensor([]))])
    with pytest.raises(RuntimeError, match="expected a last dimension in the file, got none"):
        load(model).allocate_tensors()


@pytest.mark.parametrize(
    "packed", [TINY, tensor_bytes.TINY, tensor_bytes.TINY_RANS, tensor_bytes.TINY_BITMAP], ids=[1, 2, 3, 4]
)
def test_the_bytes_before_they_are_broken_are_fine(packed):
    interpreter = load(one_layer(packed, None, (1, 3)))
    assert run(interpreter, np.array([[1, 10, 100]], np.float32)).tolist() == [[1.25, -25.0]]


def test_a_bias_without_values_is_an_error(layer):
    node = node_of(layer)
    node.tensors[1] = Tensor([30])  # nothing computes it
    interpreter = load(build(Tensor([1, 100]), [node]))
    interpreter.allocate_tensors()
    with pytest.raises(RuntimeError, match=r"bias tensor2: expected values, got none|Input tensor 2 lacks data"):
        interpreter.invoke()


@pytest.mark.parametrize(
    ("name", "x", "bias", "y", "message"),
    [
        ("rows_at_the_limit", [1, 1], Tensor([3], FLOAT32, bytes(12)), [1, 3], "bias .* expected shape .2147483647."),
        ("rows_at_the_limit", [1, 1], None, [1, 3], "output .* last dimension of 2147483647 .* got 3"),
        ("cols_at_the_limit", [1, 3], None, [1, 2], "expected 2147483647 values in a row .* got a last dimension of 3"),
        ("rows_past_the_limit", [1, 1], None, [1, 3], "sizes contradict"),
    ],
)
def test_sizes_that_the_tensors_do_not_have_cost_nothing(*, name, x, bias, y, message):
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    interpreter = load(build(Tensor(x), [Node([packed_tensor(packed), bias], Tensor(y))]))
    with pytest.raises(RuntimeError, match=message):
        interpreter.allocate_tensors()


def test_without_the_delegate_the_runtime_says_so(layer):
    interpreter = load(one_layer(layer[2], None, (1, 100)), delegate=False)
    with pytest.raises(RuntimeError, match=f"Encountered unresolved custom op: {OP_NAME}"):
        interpreter.allocate_tensors()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isa": "mmx"}, "scalar, avx2, avx512, avx512vbmi, neon or neondot, supported by this CPU, got 'mmx'"),
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
