"""The benchmarks' files of dense layers are the converter's, and packed ones the exporter's."""

import importlib
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_prune_export as kpe
from keras_prune_export import flatbuffer

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
X = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def made():
    sys.path.insert(0, str(BENCHMARKS))
    layer_files = importlib.import_module("layer_files")
    layers = layer_files.random_network(40, [(60, 0.2), (50, 0.25), (10, 0.3)])
    model = keras.Sequential([keras.Input((40,))])
    for layer in layers:
        model.add(keras.layers.Dense(len(layer.bias), "relu" if layer.activation else None))
        model.layers[-1].set_weights([layer.weights().T, layer.bias])
    return layer_files, layers, model


def run(data):
    interpreter = kpe.load_interpreter(data)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, X)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def operators(data):
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    codes = [model.operatorCodes[op.opcodeIndex] for op in graph.operators]
    weights = [graph.tensors[op.inputs[1]] for op in graph.operators]
    return [
        (c.builtinCode, c.customCode, c.version, w.type, list(w.shape)) for c, w in zip(codes, weights, strict=True)
    ]


def test_float32_file_is_the_converters(made):
    layer_files, layers, model = made
    data, converted = layer_files.float32_file(layers), kpe.convert(model)
    assert operators(data) == operators(converted)
    np.testing.assert_array_equal(run(data), run(converted))


def test_int8_file_is_the_converters(made):
    layer_files, layers, model = made
    data, converted = layer_files.int8_file(layers), kpe.convert(model, optimize="dynamic_range")
    assert operators(data) == operators(converted)
    np.testing.assert_array_equal(run(data), run(converted))


def test_packed_file_is_the_exporters(made):
    layer_files, layers, model = made
    packed = [layer_files.packed_bytes(layer) for layer in layers]
    data, exported = layer_files.packed_file(layers, packed), kpe.export_tflite(model)
    assert [row[1] for row in operators(data)] == [b"KerasPruneFullyConnected"] * 3
    np.testing.assert_array_equal(run(data), run(exported))


def test_random_layer():
    sys.path.insert(0, str(BENCHMARKS))
    layer_files = importlib.import_module("layer_files")
    layer = layer_files.random_layer((300, 200), 0.1, seed=3)
    assert layer.codes.shape == (300, 200)
    assert 0.095 < layer.kept / layer.codes.size < 0.105  # 6,000 kept, their spread is 73
    assert np.unique(layer.codes).tolist() == list(range(16))
    assert np.count_nonzero(layer.weights()) == layer.kept
    np.testing.assert_array_equal(layer.codes, layer_files.random_layer((300, 200), 0.1, seed=3).codes)
