"""evaluate_tflite by layer: every byte, the entropy bound, errors against the float model, latency by operator."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
from one_operator import MODELS, bytes_of, sparse_weights, with_float16  # type: ignore[import-not-found]
from tflite_models import buffer, fully_connected, small_model, sparse, tensor  # type: ignore[import-not-found]

import keras_prune
from keras_prune import sparse_format, tensor_format
from keras_prune.quantization import Codebook
from keras_prune_export import evaluate, flatbuffer, layer_bytes, layer_errors, measure, op_latency, operators
from keras_prune_export.entropy_bound import bound_bytes

X = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def fewer_rounds():
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "_ROUNDS", 2)
    patch.setattr(measure, "_BLOCK_NS", 100_000)
    patch.setattr(op_latency, "_ROUNDS", 1)
    yield
    patch.undo()


def dense(weights):
    """x -> fully connected -> y with a free batch, in one subgraph."""
    model = small_model(weights)
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], model.signatureDefs[:1]
    for number, size in ((0, weights.shape[1]), (3, weights.shape[0])):
        model.subgraphs[0].tensors[number].shapeSignature = np.array([-1, size], np.int32)
    return model


def numbers(dtype, values):
    return np.array(values, dtype)


def inputs_of(data):
    """Examples for a file of `one_operator`, one inference."""
    model = flatbuffer.read(data)
    found = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    return np.random.default_rng(0).integers(0, 5, found.shape).astype(np.float32)


# Bytes.


@functools.cache
def files_of(name):
    data = bytes_of(name)
    lossless, coded = (keras_prune.pack_tflite(data, weights=weights) for weights in ("lossless", Codebook(bits=4)))
    return {"stock": data, "lossless": lossless, "codebook": coded}


@pytest.mark.parametrize("name", MODELS)
def test_bytes_of_every_operator_add_up_to_the_file(name):
    for kind, data in files_of(name).items():
        rows = layer_bytes.layer_bytes(data)
        assert sum(row.num_bytes for row in rows) == len(data)
        assert [row.name for row in rows[-2:]] == [layer_bytes.CONSTANTS, layer_bytes.TABLES]
        assert {row.form for row in rows[:-2]} == ({"stock"} if kind == "stock" else {"expand"})
        for row in rows[:-2]:
            assert (row.entropy_bound is None) == (kind == "stock")
            assert (row.low_bits > 0) == (kind == "lossless" and row.codebook == 0 and row.kept > 0)
    before, after = (layer_bytes.layer_bytes(data) for data in (files_of(name)["stock"], files_of(name)["lossless"]))
    told = [{(row.name, row.shape, row.kept) for row in rows} for rows in (before, after)]
    assert told[0] <= told[1]  # large biases are packed, too


def test_bytes_of_float16_and_shared_weights():
    model = MODELS["CONV_2D"]()
    with_float16(model, "constant1")
    data = flatbuffer.write(model)
    stock, *_ = layer_bytes.layer_bytes(data)
    assert (stock.form, stock.other) == ("stock", 2 * 16 * 3 * 3 * 8)
    packed, *rest = layer_bytes.layer_bytes(keras_prune.pack_tflite(data))
    assert packed.low_bits == packed.kept == stock.kept
    assert rest[0].num_bytes == 64  # 16 float32 biases
    shared = flatbuffer.write(small_model(sparse()))  # two subgraphs read the same weights
    assert [row.other for row in layer_bytes.layer_bytes(shared)[:-1]] == [4 * 24 * 40, 4 * 24]


def test_bytes_behind_a_flatbuffer_are_its():
    data = flatbuffer.write(dense(sparse()))
    assert layer_bytes.layer_bytes(data + bytes(100))[-1].num_bytes == layer_bytes.layer_bytes(data)[-1].num_bytes + 100


# log2 C(8, 4) = log2 70 bits for positions; two symbols of two each: 4 bits.
GOLDEN = (math.log2(70) + 4) / 8
MANY = np.linspace(1, 1.9999, 600, dtype=np.float32)
MANY_BOUND = math.log2(math.comb(1200, 600)) / 8 + 3 * 600


@pytest.mark.parametrize(
    ("packed", "bound"),
    [
        (
            tensor_format.encode_codes(numbers("uint8", [[0, 1, 0, 1, 0, 2, 0, 2]]), numbers("float32", [0, 1, 2])),
            GOLDEN,
        ),
        (sparse_format.encode(numbers("uint8", [[0, 1, 0, 1, 0, 2, 0, 2]]), numbers("float32", [0, 1, 2])), GOLDEN),
        (tensor_format.encode_scaled(numbers("int8", [[0, 7, 0, 7, 0, -9, 0, -9]]), numbers("float32", [0.3])), GOLDEN),
        (tensor_format.encode_exact(numbers("uint8", [[5, 1, 5, 1, 5, 2, 5, 2]]), fill=5), GOLDEN),
        (tensor_format.encode_exact(numbers("float16", [[0, 1.5, 0, 1.5009765625, 0, 8, 0, 8.5]])), GOLDEN + 4),
        # one exponent, more values than a codebook has: 3 bytes each
        (
            tensor_format.encode_exact(np.repeat(MANY, 2).reshape(1, -1) * numbers("float32", [[0, 1] * 600])),
            MANY_BOUND,
        ),
        (tensor_format.encode_exact(np.ones((3, 5), np.int8)), 0),
        (tensor_format.encode_exact(np.zeros((3, 5), np.float32)), 0),
    ],
)
def test_bound_golden(packed, bound):
    assert bound_bytes(packed) == pytest.approx(bound, rel=1e-12, abs=1e-12)


def test_random_codes_come_near_the_bound():
    rng = np.random.default_rng(0)
    codes = (rng.integers(1, 16, (200, 300)) * (rng.random((200, 300)) < 0.1)).astype(np.uint8)
    packed = tensor_format.encode_codes(codes, np.arange(16, dtype=np.float32))
    header = tensor_format.read_header(packed)
    # positions: gaps of 0.1 are coded within 0.1 %; the codes' entropy within as much, and tables of 100 bytes
    assert 1 < (header.position_bytes + header.symbol_bytes) / bound_bytes(packed) < 1.02


# Errors.


def test_equal_files_have_no_error():
    data = flatbuffer.write(dense(sparse()))
    assert layer_errors.layer_errors(data, data, X) == (layer_errors.LayerError("name", "FULLY_CONNECTED", 0, 0, 0),)


@pytest.mark.parametrize("pack", [False, True])
def test_errors_are_relative_to_the_largest_value(pack):
    weights = sparse()
    changed = weights.copy()
    changed[3, np.flatnonzero(weights[3])[0]] += 0.125
    data, reference = (flatbuffer.write(dense(values)) for values in (changed, weights))
    if pack:
        data = keras_prune.pack_tflite(data, weights=Codebook(bits=4))  # holds the few values exactly
    (error,) = layer_errors.layer_errors(data, reference, X, batch_size=7)
    outputs, expected = (X @ values.T.astype(np.float64) + np.arange(24) for values in (changed, weights))
    assert error.weight_error == 0.125  # of 1.0
    # float32 sums of at most 40 terms of up to 5, in any order
    assert error.output_error == pytest.approx(np.abs(outputs - expected).max() / np.abs(expected).max(), rel=1e-4)
    rms = np.sqrt(np.square(outputs - expected).mean())
    assert error.output_rms_error == pytest.approx(rms / np.abs(expected).max(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if "GATHER" not in name and "LOOKUP" not in name])
def test_errors_of_every_operator(name):
    files, x = files_of(name), inputs_of(bytes_of(name))
    for kind in ("lossless", "codebook"):
        errors = layer_errors.layer_errors(files[kind], files["stock"], x, batch_size=len(x))
        assert [error.kind for error in errors] == [name]
        for error in errors:
            assert (error.weight_error == 0) == (kind == "lossless")
            assert error.weight_error < 0.2  # 15 values for weights of a normal distribution
            assert (error.output_error == 0) == (kind == "lossless")
            assert error.output_rms_error <= error.output_error < 0.5


def test_errors_of_integers_are_those_of_the_real_numbers():
    details = {
        "quantization_parameters": {"scales": numbers("float32", [0.5, 2]), "zero_points": numbers("int32", [0, 1])}
    }
    details["quantization_parameters"]["quantized_dimension"] = 1
    got = layer_errors.real_values(numbers("int8", [[1, 2], [3, 4]]), details)
    np.testing.assert_array_equal(got, [[0.5, 2], [1.5, 6]])


def test_reference_of_another_network():
    data = flatbuffer.write(dense(sparse()))
    with pytest.raises(ValueError, match="expected the shape of the reference"):
        layer_errors.layer_errors(data, flatbuffer.write(dense(sparse(25, 40))), X)
    with pytest.raises(ValueError, match="expected a reference of the same network, got one with 0 operators"):
        layer_errors.layer_errors(bytes_of("CONV_2D"), data, X)


def test_pairs_by_name_where_the_order_differs():
    model = two_layers()
    own = operators.operators(model)
    model.subgraphs[0].operators.append(fully_connected([0, 1, 2], [3]))
    model.subgraphs[0].tensors.append(tensor("z", [1, 40], 0))
    model.subgraphs[0].operators[2].outputs = np.array([len(model.subgraphs[0].tensors) - 1], np.int32)
    third = operators.operators(model)[2]
    with pytest.raises(ValueError, match="2 operators FULLY_CONNECTED"):  # two layers share their weights' name
        operators.pairs([third], operators.operators(model))
    assert operators.pairs([own[1]], own) == [(own[1], own[1])]


# Latency.


def two_layers():
    """x -> fully connected (sparse) -> fully connected (sparse) -> y."""
    model = dense(sparse())
    graph = model.subgraphs[0]
    model.buffers.append(buffer(sparse(40, 24, seed=1)))
    graph.tensors += [tensor("second", [40, 24], len(model.buffers) - 1), tensor("end", [1, 40], 0)]
    graph.tensors[-1].shapeSignature = np.array([-1, 40], np.int32)
    graph.operators.append(fully_connected([3, 4, -1], [5]))
    graph.outputs = np.array([5], np.int32)
    model.signatureDefs = None
    return model


def test_latency_of_each_operator_beside_the_reference():
    stock = flatbuffer.write(two_layers())
    packed = keras_prune.pack_tflite(stock, weights=Codebook(bits=4))
    rows = op_latency.op_latencies(packed, X, reference=stock)
    assert [(row.name, row.kind) for row in rows] == [
        ("name", "KerasPruneFullyConnected"),
        ("second", "KerasPruneFullyConnected"),
    ]
    for row in rows:
        assert row.latency.median > 0
        assert row.reference.median > 0
    header, *_ = op_latency.latency_table(rows).splitlines()
    assert header.split()[-2:] == ["µs", "ratio"]
    assert [row.reference for row in op_latency.op_latencies(stock, X)] == [None, None]


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_runs_alone(name):
    for data in files_of(name).values():
        model, x = flatbuffer.read(data), inputs_of(data)
        (op,) = operators.operators(model)
        assert (op.kind, len(op.decoders)) == (name, int(data is not files_of(name)["stock"] and len(op.decoders)))
        cut, inputs = operators_alone(model, op)
        assert inputs == [int(model.subgraphs[0].inputs[0])]
        want = evaluate.predict_tflite(data, x, batch_size=len(x))
        np.testing.assert_array_equal(evaluate.predict_tflite(cut, x, batch_size=len(x)), want)


def operators_alone(model, op):
    shapes = {index: np.array(each.shape) for index, each in enumerate(model.subgraphs[0].tensors)}
    return op_latency.single_operator(model, op, shapes)


def test_constants_of_an_operator_only():
    model = two_layers()
    for index, shape in ((1, (24, 40)), (4, (40, 24))):
        model.buffers[model.subgraphs[0].tensors[index].buffer] = buffer(sparse_weights(*shape))
    file = flatbuffer.read(keras_prune.pack_tflite(flatbuffer.write(model)))  # lossless: both are expanded
    first, second = operators.operators(file)
    cuts = [flatbuffer.read(operators_alone(file, op)[0]) for op in (first, second)]
    for cut, name in zip(cuts, ("name", "second"), strict=True):
        (row, *_), decoder = layer_bytes.layer_bytes(flatbuffer.write(cut)), cut.subgraphs[0].operators[0]
        assert (row.name, len(decoder.inputs)) == (name, 1)


def test_operators_that_do_not_run_alone_say_why(monkeypatch):
    stock, alone = flatbuffer.write(two_layers()), op_latency.single_operator

    def refuse_second(model, op, shapes):
        if op.name == "second":
            raise ValueError("it needs the one before")
        return alone(model, op, shapes)

    monkeypatch.setattr(op_latency, "single_operator", refuse_second)
    first, second = op_latency.op_latencies(stock, X, reference=stock)
    assert first.latency.median > 0
    assert (second.latency, second.reference, second.reason) == (None, None, "it needs the one before")
    assert op_latency.latency_table([first, second]).splitlines()[-1].split()[2:] == ["-"] * 5


def test_a_model_that_the_runtime_refuses():
    stock = two_layers()
    stock.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = 5  # sign: no kernel has it
    with pytest.raises(ValueError, match="the runtime refused the model"):
        op_latency.op_latencies(flatbuffer.write(stock), X)


# Together.


def test_everything_in_tables_and_json():
    stock = flatbuffer.write(two_layers())
    packed = keras_prune.pack_tflite(stock, weights=Codebook(bits=4))
    labels = np.zeros(len(X), int)
    result = evaluate.evaluate_tflite(packed, X, labels, reference=stock, time_operators=True)
    data = json.loads(result.to_json())
    assert [row["name"] for row in data["errors"]] == [row["name"] for row in data["operators"]] == ["name", "second"]
    assert sum(row["num_bytes"] for row in data["sizes"]) == result.num_bytes
    assert data["entropy_bound"] == sum(row["entropy_bound"] for row in data["sizes"][:2])
    assert data["operators"][0]["latency"]["median"] > 0
    text = str(result)
    for word in ("entropy bound", "weight error %", "reference µs", "flatbuffer"):
        assert word in text


def test_without_labels():
    result = evaluate.evaluate_tflite(flatbuffer.write(dense(sparse())), X)
    assert result.accuracy is None
    assert result.predictions is None
    assert str(result).splitlines()[2].split()[1:3] == ["-", "-"]


def test_several_inputs():
    model = two_layers()
    graph = model.subgraphs[0]
    graph.tensors += [tensor("serving_default_mask:0", [1, 40], 0), tensor("z", [1, 24], 0)]
    for index in (6, 7):
        graph.tensors[index].shapeSignature = np.array([-1, *graph.tensors[index].shape[1:]], np.int32)
    graph.operators.append(fully_connected([6, 1, 2], [7]))
    graph.inputs, graph.outputs = np.array([0, 6], np.int32), np.array([5, 7], np.int32)
    data = flatbuffer.write(model)
    for x in ([X, 2 * X], (X, 2 * X), {"x": X, "mask": 2 * X}, {"x": X, "serving_default_mask:0": 2 * X}):
        got = evaluate.predict_tflite(data, x, batch_size=6)
        # float32 sums of at most 40 and 24 terms
        np.testing.assert_allclose(
            got, (X @ sparse().T + np.arange(24)) @ sparse(40, 24, seed=1).T, rtol=1e-4, atol=1e-3
        )
    result = evaluate.evaluate_tflite(data, [X, 2 * X], reference=data, time_operators=True)
    assert [error.output_error for error in result.errors] == [0, 0, 0]
    assert all(row.latency.median > 0 for row in result.operators)
    for x, message in (
        ([X], "list or dict of 2 arrays"),
        ({"x": X}, r"expected arrays for the inputs \['x', 'mask'\], got \['x'\]"),
        ([X, X[1:]], r"as many examples for each input, got \[20, 19\]"),
        ([X, X[:, 1:]], r"shape \(40,\), got an array of shape \(20, 39\)"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.predict_tflite(data, x)
