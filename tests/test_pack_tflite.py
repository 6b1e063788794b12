"""pack_tflite: the weights of every operator and type, and what they compute."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from one_operator import MODELS, TYPES, bytes_of, sparse_weights, with_float16  # type: ignore[import-not-found]
from stock_files import (  # type: ignore[import-not-found]
    as_stock,
    assert_equal,
    assert_same,
    operators,
    run,
    weights_of,
)
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import edits, flatbuffer, packing
from keras_prune_export.flatbuffer import schema
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations.unpack import options_bytes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", ["lossless", Codebook(bits=4)])
def test_weights_of_every_operator(name, weights):
    data = bytes_of(name)
    result = keras_prune.pack_tflite(data, weights=weights)
    assert len(result) < 0.75 * len(data)
    layers = packed_layers(flatbuffer.read(result))
    assert {layer.form for layer in layers} == {"expand"}
    before, after = weights_of(data), weights_of(result)
    assert before.keys() == after.keys()
    for layer in layers:
        values = after[layer.name]
        assert layer.kept == np.count_nonzero(values)
        if weights == "lossless":
            np.testing.assert_array_equal(values.view(np.uint32), before[layer.name].view(np.uint32))
        else:
            codes, codebook = weights.fit(before[layer.name])
            np.testing.assert_array_equal(values, codebook[codes])
    for other in before.keys() - {layer.name for layer in layers}:  # biases
        np.testing.assert_array_equal(after[other], before[other])
    assert_equal(run(result), run(as_stock(result)))
    if weights == "lossless":
        assert_equal(run(result), run(data))


def test_options_golden():
    assert options_bytes().hex() == "0100000079b8f899"


# Types.


def test_float16_is_stored_as_it_is_and_expanded_to_what_dequantize_makes_of_it():
    model = MODELS["CONV_2D"]()
    with_float16(model, "constant1")
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data)
    (layer,) = packed_layers(flatbuffer.read(result))
    assert (layer.name, layer.form, layer.shape) == ("constant1", "expand", (16, 3, 3, 8))
    assert layer.low_bytes == layer.kept  # one byte a weight besides the one that is coded
    assert operators(result) == ["CUSTOM", "CONV_2D"]
    assert_equal(run(result), run(data))


def test_float16_that_others_read_stays_before_dequantize():
    model = MODELS["CONV_2D"]()
    with_float16(model, "constant1")
    second = copy.copy(model.subgraphs[0].operators[0])  # reads it too, and is no DEQUANTIZE
    model.operatorCodes.append(copy.copy(model.operatorCodes[1]))
    model.operatorCodes[2].builtinCode = model.operatorCodes[2].deprecatedBuiltinCode = schema.BuiltinOperator.NEG
    second.opcodeIndex = 2
    model.subgraphs[0].operators.append(second)
    result, layers = packing.pack(flatbuffer.write(model), Schemes(Codebook()))
    assert operators(result) == ["CUSTOM", "DEQUANTIZE", "CONV_2D", "NEG"]
    assert layers[0].reason == "expanded at load for DEQUANTIZE, NEG"
    np.testing.assert_array_equal(weights_of(result)["constant1/half"], sparse_weights(16, 3, 3, 8).astype(np.float16))


def test_float16_becomes_float32_where_a_codebook_is_asked_for():
    model = MODELS["CONV_2D"]()
    with_float16(model, "constant1")
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data, weights=Codebook(bits=4))
    assert operators(result) == ["CUSTOM", "CONV_2D"]
    values = weights_of(data)["constant1/half"].astype(np.float32)
    codes, codebook = Codebook(bits=4).fit(values)
    np.testing.assert_array_equal(weights_of(result)["constant1"], codebook[codes])
    assert_equal(run(result), run(as_stock(result)))


@pytest.mark.parametrize("weights", ["lossless", Codebook(bits=4)])
def test_fully_connected_computes_through_dequantize(weights):
    model = small_model(sparse())  # few values: float16 holds them, and a codebook
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], model.signatureDefs[:1]
    model.subgraphs[0].tensors[1].name = "w"
    with_float16(model, "w")
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data, weights=weights)
    (layer,) = packed_layers(flatbuffer.read(result))
    assert (layer.name, layer.form) == ("w", "compute")
    assert operators(result) == ["CUSTOM"]
    assert_same(run(result), run(data))


@pytest.mark.parametrize(("dtype", "zero_point"), [(np.int8, 0), (np.uint8, 131)])
def test_integers_keep_their_bits_and_their_zero_point_costs_nothing(dtype, zero_point):
    rng = np.random.default_rng(0)
    kept = rng.random((64, 40)) < 0.2
    codes = np.where(kept, rng.integers(-100, 100, (64, 40)) + zero_point, zero_point).astype(dtype)
    model = small_model(sparse(64, 40))
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], None
    weights = model.subgraphs[0].tensors[1]
    weights.buffer, weights.type = edits.add_buffer(model, codes.tobytes()), TYPES[np.dtype(dtype)]
    weights.quantization.scale, weights.quantization.zeroPoint = np.float32([0.01]), np.array([zero_point])
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data, weights=Codebook(bits=2))
    (layer,) = packed_layers(flatbuffer.read(result))
    assert (layer.form, layer.kept) == ("expand", np.count_nonzero(codes != zero_point))
    assert len(result) < 0.6 * len(data)
    graph = flatbuffer.read(result).subgraphs[0]
    (tensor,) = (tensor for tensor in graph.tensors if flatbuffer.text(tensor.name) == layer.name)
    np.testing.assert_array_equal(tensor.quantization.zeroPoint, [zero_point])
    stored = next(values for values in weights_of(result).values() if values.dtype == dtype)
    np.testing.assert_array_equal(stored, codes)
    if dtype == np.int8:  # float activations, int8 weights: the converter's dynamic range
        assert_equal(run(result), run(data))


def test_negative_zeros_of_pruned_weights_lose_their_sign():
    values = sparse_weights(16, 3, 3, 8)
    values[values == 0] = -0.0
    model = MODELS["CONV_2D"]()
    model.buffers[1].data = np.frombuffer(values.tobytes(), np.uint8)
    result = keras_prune.pack_tflite(flatbuffer.write(model))
    assert len(result) == len(keras_prune.pack_tflite(bytes_of("CONV_2D")))
    assert not np.signbit(weights_of(result)["constant1"][values == 0]).any()
    dense = keras_prune.pack_tflite(flatbuffer.write(model), min_sparsity=0.9)  # not pruned by this measure
    assert np.signbit(weights_of(dense)["constant1"][values == 0]).all()
