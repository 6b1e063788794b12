"""export_tflite: what is packed, what is kept, how small the file is, and that it computes what it should."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import converter, evaluate, files, flatbuffer, runtime, tflite
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.pack_fully_connected import (
    choose,
    options_bytes,
    pack_fully_connected,
    packed_layers,
)

layers = keras.layers


def prune(model, *, density=0.1, seed=0):
    """Random masks on all kernels, random biases."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        values = rng.normal(size=variable.shape) * 0.3
        if len(variable.shape) >= 2:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    return model


def unpack(data):
    """The stock file that a packed one stands for: every packed operator is FULLY_CONNECTED on dense weights again."""
    model = flatbuffer.read(data)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model.operatorCodes.append(code)
    for graph in model.subgraphs:
        for op in graph.operators:
            if flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode) != target.OPERATOR:
                continue
            version, activation, keep_num_dims, reserved, crc = struct.unpack("<BBBBI", bytes(op.customOptions))
            assert (version, reserved, crc) == (1, 0, zlib.crc32(bytes(op.customOptions)[:4]))
            weights = graph.tensors[op.inputs[1]]
            if weights.type == schema.TensorType.UINT8:
                dense = sparse_format.to_dense(np.array(model.buffers[weights.buffer].data))
                weights.type, weights.shape = schema.TensorType.FLOAT32, np.array(dense.shape, np.int32)
                weights.buffer = flatbuffer.add_buffer(model, dense.tobytes())
            op.opcodeIndex, op.customOptions = len(model.operatorCodes) - 1, None
            op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            op.builtinOptions = schema.FullyConnectedOptionsT()
            op.builtinOptions.fusedActivationFunction, op.builtinOptions.keepNumDims = activation, bool(keep_num_dims)
    flatbuffer.drop_unused(model)
    return flatbuffer.write(model)


def run(data, *inputs):
    """All outputs of one inference, by tensor name."""
    interpreter = runtime.load_interpreter(data)
    for details, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(details["index"], values.shape)
    interpreter.allocate_tensors()
    for details, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return {details["name"]: interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in got:
        # float32 sums of up to a few hundred terms in another order
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def dense_model():
    # 784-300-100-10: the sizes of LeNet-300-100, whose file size the project promises.
    stack = [layers.Dense(300, activation="relu"), layers.Dense(100, activation="relu"), layers.Dense(10)]
    return prune(keras.Sequential([keras.Input((784,)), *stack], name="lenet"))


def conv_model():
    inputs = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    outputs = {"first": layers.Dense(10, name="first")(x), "second": layers.Dense(3, "tanh", name="second")(x)}
    model = prune(keras.Model(inputs, outputs))
    rng = np.random.default_rng(1)
    for variable in model.get_layer(index=5).variables:  # the BatchNormalization's: scale, offset, mean, variance
        variable.assign(rng.random(variable.shape) + 0.5)
    return model


@pytest.fixture(scope="module")
def lenet():
    return dense_model()


@pytest.fixture(scope="module")
def lenet_float(lenet):
    return converter.convert(lenet)


@pytest.fixture(scope="module")
def lenet_packed(lenet):
    return tflite.export_tflite(lenet)


@pytest.fixture(scope="module")
def conv():
    return conv_model()


def test_float_file_equals_keras(lenet, lenet_float):
    x = np.random.default_rng(0).normal(size=(5, 784)).astype(np.float32)
    (got,) = run(lenet_float, x).values()
    np.testing.assert_allclose(got, lenet.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_packed_file_is_small_and_dense_bytes_are_gone(lenet, lenet_float, lenet_packed):
    assert len(lenet_packed) < len(lenet_float) / 25
    found = packed_layers(flatbuffer.read(lenet_packed))
    assert [layer.shape for layer in found] == [(300, 784), (100, 300), (10, 100)]
    kept = [np.count_nonzero(layer.kernel.numpy()) for layer in lenet.layers]
    assert [layer.kept for layer in found] == kept
    biases = 4 * (300 + 100 + 10)
    # names, tables, padding: the promise is 2 KB
    assert len(lenet_packed) - sum(layer.num_bytes for layer in found) - biases < 2048
    for layer in lenet.layers:
        row = np.ascontiguousarray(layer.kernel.numpy().T[0])
        assert row.tobytes() in lenet_float
        assert row.tobytes() not in lenet_packed
        assert layer.bias.numpy().tobytes() in lenet_packed


def test_packed_weights_are_64_byte_aligned(lenet_packed):
    positions = [i for i in range(0, len(lenet_packed), 4) if lenet_packed[i : i + 4] == sparse_format.MAGIC]
    assert len(positions) == 3
    assert all(position % 64 == 0 for position in positions)


def test_packed_file_computes_what_it_stands_for(lenet_packed):
    x = np.random.default_rng(0).normal(size=(7, 784)).astype(np.float32)
    assert_same(run(lenet_packed, x), run(unpack(lenet_packed), x))


def test_weights_are_the_codebook_of_the_keras_kernel(lenet, lenet_packed):
    graph = flatbuffer.read(lenet_packed)
    buffers = [np.array(b.data) for b in graph.buffers if b.data is not None and bytes(b.data[:4]) == b"KPRI"]
    got = {matrix.shape: matrix for matrix in map(sparse_format.to_dense, buffers)}
    for layer in lenet.layers:
        codes, codebook = Codebook().fit(layer.kernel.numpy().T)
        np.testing.assert_array_equal(got[codes.shape], codebook[codes])


def test_convolutions_several_outputs_and_folded_batch_normalization(conv, tmp_path):
    path = tmp_path / "conv.tflite"
    data = tflite.export_tflite(conv, path, weights=Codebook(bits=8))
    assert path.read_bytes() == data
    found = packed_layers(flatbuffer.read(data))
    assert sorted(layer.shape for layer in found) == [(3, 32), (10, 32), (32, 200)]
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 2)).astype(np.float32)
    got = run(path, x)
    assert_same(got, run(unpack(data), x))
    want = conv.predict(x, verbose=0)
    assert {values.shape for values in got.values()} == {(4, 10), (4, 3)}
    for values in got.values():
        # 255 shared values: the error of one weight is below 1/255 of their range, that of a sum a few percent of it
        reference = want["first" if values.shape == (4, 10) else "second"]
        np.testing.assert_allclose(values, reference, atol=0.02 * np.abs(reference).max())


def test_signatures_keep_their_names(conv):
    interpreter = runtime.load_interpreter(tflite.export_tflite(conv))
    (details,) = interpreter.get_signature_list().values()
    assert sorted(details["outputs"]) == ["first", "second"]
    x = np.ones((1, 12, 12, 2), np.float32)
    runner = interpreter.get_signature_runner("serving_default")
    result = runner(**{details["inputs"][0]: x})
    assert {name: values.shape for name, values in result.items()} == {"first": (1, 10), "second": (1, 3)}


def test_shared_layer_is_packed_once():
    inputs = [keras.Input((32,)), keras.Input((32,))]
    dense = layers.Dense(48, activation="relu")
    model = prune(keras.Model(inputs, layers.Concatenate()([dense(x) for x in inputs])))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 1
    assert data.count(sparse_format.MAGIC) == 1
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(3, 32)).astype(np.float32) for _ in inputs]
    assert_same(run(data, *x), run(unpack(data), *x))


def test_rank_3_input():
    model = prune(keras.Sequential([keras.Input((6, 32)), layers.Dense(24, activation="relu"), layers.Dense(16)]))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 2
    x = np.random.default_rng(0).normal(size=(3, 6, 32)).astype(np.float32)
    got = run(data, x)
    assert_same(got, run(unpack(data), x))
    assert next(iter(got.values())).shape == (3, 6, 16)


def test_model_is_not_changed(lenet):
    before = [variable.numpy() for variable in lenet.variables]
    tflite.export_tflite(lenet, weights=Codebook(bits=2))
    for variable, values in zip(lenet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


def test_fewer_bits_make_a_smaller_file(lenet, lenet_packed):
    assert len(tflite.export_tflite(lenet, weights=Codebook(bits=2))) < len(lenet_packed)


def test_stock_target_is_the_plain_file(lenet, lenet_float):
    data = tflite.export_tflite(lenet, target="stock")
    assert len(data) == len(lenet_float)
    assert not packed_layers(flatbuffer.read(data))


def test_export_prints_nothing(lenet, capfd):
    tflite.export_tflite(lenet)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


# The graph edit alone, on models made by hand.


def test_every_subgraph_is_edited_and_weights_are_stored_once():
    model = small_model(sparse())
    (layer,) = pack_fully_connected(model, choose(model, Codebook(), min_sparsity=0.1))
    assert layer.packed
    flatbuffer.drop_unused(model)
    assert [flatbuffer.text(code.customCode) for code in model.operatorCodes] == [target.OPERATOR]
    assert [g.tensors[1].buffer for g in model.subgraphs] == [model.subgraphs[0].tensors[1].buffer] * 2
    data = flatbuffer.write(model)
    assert data.count(sparse_format.MAGIC) == 1
    x = np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)
    np.testing.assert_allclose(run(data, x)["y"], x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [0, 1, 2, 3])
@pytest.mark.parametrize("keep_num_dims", [False, True])
def test_fused_activation_and_dimensions(activation, keep_num_dims):
    data = flatbuffer.write(small_model(sparse(), activation=activation, keep_num_dims=keep_num_dims))
    data, _ = tflite.pack(data, weights=Codebook(), min_sparsity=0.1)
    x = np.random.default_rng(0).normal(size=(2, 3, 40)).astype(np.float32) * 5
    got, want = run(data, x), run(unpack(data), x)
    assert got["y"].shape == ((2, 3, 24) if keep_num_dims else (6, 24))
    assert_same(got, want)


def test_options_golden():
    assert options_bytes(3, True).hex() == "010301006137a582"


def test_report_golden():
    weights = np.zeros((2, 64), np.float32)
    weights[0, 40], weights[1, 63] = 0.5, -1
    packed, reason = target.store(weights, Codebook(bits=2), 0.1)
    assert reason == ""
    # 40 zeros before the first weight, 86 before the second: one entry each with 7-bit gaps
    assert target.describe("w", packed).to_dict() == {
        "name": "w",
        "shape": [2, 64],
        "reason": "",
        "kept": 2,
        "fillers": 0,
        "gap_bits": 7,
        "code_bits": 2,
        "header_bytes": 36,
        "codebook_bytes": 8,
        "gap_bytes": 2,
        "code_bytes": 1,
        "num_bytes": 47,
    }


def activations(kind):
    def edit(model):
        model.subgraphs[0].tensors[0].type = kind

    return edit


def shuffled(model):
    model.subgraphs[0].operators[0].builtinOptions.weightsFormat = 1


def tanh(model):
    model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = 4


def returned(model):
    model.subgraphs[0].outputs = np.array([1], np.int32)


def wide_bias(model):
    model.subgraphs[0].tensors[2].shape = np.array([1, 24], np.int32)


def read_by_another(model):
    model.subgraphs[1].operators[0].opcodeIndex = 0
    model.subgraphs[1].operators[0].builtinOptionsType = 0
    model.subgraphs[1].operators[0].builtinOptions = None


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (activations(schema.TensorType.INT8), "activations are not float32"),
        (shuffled, "shuffled"),
        (tanh, "fused activation"),
        (returned, "also reads its weights"),
        (wide_bias, "bias is not float32"),
        (read_by_another, "also reads its weights"),
    ],
)
def test_what_cannot_be_packed_stays_and_says_why(edit, reason):
    model = small_model(sparse())
    edit(model)
    before = flatbuffer.write(model)
    (layer,) = pack_fully_connected(model, choose(model, Codebook(), min_sparsity=0.1))
    assert not layer.packed
    assert reason in layer.reason
    assert flatbuffer.write(model) == before


@pytest.mark.parametrize(
    ("weights", "min_sparsity", "reason"),
    [
        (sparse(density=0.95), 0.1, r"not pruned: \d\.\d% of the weights are zero, below min_sparsity=0.1"),
        (np.eye(2, 4, dtype=np.float32), 0.1, r"packed it would need \d+ bytes, dense it needs 32"),
        (np.full((24, 40), np.nan, np.float32), 0.0, "NaN"),
    ],
)
def test_what_does_not_pay_stays(weights, min_sparsity, reason):
    model = small_model(weights)
    (layer,) = pack_fully_connected(model, choose(model, Codebook(), min_sparsity=min_sparsity))
    assert not layer.packed
    assert re.search(reason, layer.reason), layer.reason


def test_two_matrices_are_chosen_one_by_one():
    model = small_model(sparse(), second_weights=sparse(density=0.97))
    first, second = pack_fully_connected(model, choose(model, Codebook(), min_sparsity=0.1))
    assert (first.packed, second.packed) == (True, False)


def test_all_zero_layer():
    data, (layer,) = tflite.pack(
        flatbuffer.write(small_model(np.zeros((24, 40), np.float32))), weights=Codebook(), min_sparsity=0.1
    )
    assert (layer.kept, layer.num_bytes) == (0, 36)
    np.testing.assert_array_equal(run(data, np.ones((1, 40), np.float32))["y"], [np.arange(24)])


def test_values_that_differ_by_rounding_are_merged():
    rng = np.random.default_rng(0)
    exact = sparse()
    noisy = (exact * (1 + rng.uniform(-2e-7, 2e-7, exact.shape))).astype(np.float32)
    packed, _ = target.store(noisy, Codebook(bits=2), 0.1)  # three values are not enough for four: k-means
    assert sparse_format.read_header(packed).codebook_size <= 4
    packed, _ = target.store(noisy, Codebook(bits=3), 0.1)
    assert sparse_format.read_header(packed).codebook_size == 5
    np.testing.assert_allclose(sparse_format.to_dense(packed), exact, rtol=4e-7)


# Errors.


def test_nothing_pruned():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8)])
    with pytest.raises(ValueError, match=r"min_sparsity=0\.1 of its weights pruned(.|\n)*prune the model first"):
        tflite.export_tflite(model)
    assert packed_layers(flatbuffer.read(tflite.export_tflite(model, min_sparsity=0)))


def test_unbuilt_model():
    with pytest.raises(ValueError, match="expected a built model"):
        tflite.export_tflite(keras.Sequential([layers.Dense(8)]))


@pytest.mark.parametrize("model", [None, "model.keras", layers.Dense(3)])
def test_not_a_model(model):
    with pytest.raises(TypeError, match="expected a Keras 3 model"):
        tflite.export_tflite(model)


def test_keras_2_model_is_named():
    legacy = type("Sequential", (), {"__module__": "tf_keras.src.engine"})()
    with pytest.raises(TypeError, match=r"tf_keras(.|\n)*TF_USE_LEGACY_KERAS"):
        tflite.export_tflite(legacy)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"activations": "int8"}, ValueError, "activations='float32'"),
        ({"target": "microcontroller"}, ValueError, "target to be one of"),
        ({"weights": "codebook"}, TypeError, "Codebook"),
        ({"min_sparsity": 1.5}, ValueError, "min_sparsity from 0 to 1"),
        ({"min_sparsity": "a"}, ValueError, "min_sparsity from 0 to 1, got 'a'"),
        ({"min_sparsity": None}, ValueError, "min_sparsity from 0 to 1, got None"),
        ({"path": 5}, TypeError, "path: expected the name of a file as str or os.PathLike, got 5"),
        ({"path": b"model.tflite"}, TypeError, "got b'model.tflite'; pass 'model.tflite'"),
        ({"path": "/tmp"}, IsADirectoryError, "add a file name"),
        ({"path": "/no/such/folder/model.tflite"}, FileNotFoundError, "/no/such/folder to exist"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(lenet, monkeypatch, *, arguments, error, match):
    monkeypatch.setattr(converter, "convert", lambda model: pytest.fail("converted"))
    with pytest.raises(error, match=match):
        tflite.export_tflite(lenet, **arguments)


def test_converter_refusal_is_explained():
    model = keras.Sequential([keras.Input((4, 3)), layers.GRU(5)])
    with pytest.raises(ValueError, match=r"converter refused the model(.|\n)*unroll=True"):
        converter.convert(model)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's, while it quantizes
def test_refused_layers_are_named():
    dense = layers.Dense(8)
    dense.build((None, 10))
    packed = keras.Sequential([keras.Input((10,)), keras_prune.layers.PackedDense.from_dense(dense)])
    with pytest.raises(ValueError, match=r"'dense\w*' \(PackedDense\)(.|\n)*before from_dense") as caught:
        tflite.export_tflite(packed)
    assert len(str(caught.value)) < 400
    assert "RelativeIndexMatmul" in str(caught.value)
    assert "neither a custom op" in str(caught.value.__cause__)
    lookup = layers.IntegerLookup(vocabulary=[1, 2, 3], name="ids")
    stack = [lookup, layers.Embedding(5, 4), layers.Flatten(), layers.Dense(4)]
    with pytest.raises(ValueError, match=r"layer 'ids' \(IntegerLookup\) looks values up in a table"):
        converter.convert(keras.Sequential([keras.Input((1,), dtype="int64"), *stack]))
    quantized = keras.Sequential([keras.Input((10,)), layers.Dense(8, name="small")])
    quantized.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"layer 'small' was quantized to int8 by Keras(.|\n)*before model\.quantize"):
        converter.convert(quantized)


# Other types.


def typed_model(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((12,))
        x = layers.BatchNormalization()(inputs)
        x = layers.Dense(32, activation="relu")(x)
        x = layers.Lambda(lambda values: values * 2)(x) + layers.Dense(32)(x)
        model = keras.Model(inputs, layers.Dense(5, activation="softmax", dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(before)
    return prune(model, density=0.3)


@pytest.mark.parametrize(
    ("policy", "bits"),
    [("mixed_float16", 11), ("mixed_bfloat16", 8), ("float16", 11), ("bfloat16", 8), ("float64", 24)],
)
def test_models_of_other_types_go_through_float32(policy, bits):
    model = typed_model(policy)
    before = [variable.numpy() for variable in model.weights]
    x = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    interpreter_values = evaluate.predict_tflite(converter.convert(model), x)
    assert interpreter_values.dtype == np.float32
    # probabilities; a few dozen roundings to so many bits
    np.testing.assert_allclose(interpreter_values, model.predict(x, verbose=0), atol=max(32 * 2.0**-bits, 1e-5))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 3
    for variable, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


class Opaque(keras.Model):
    def __init__(self, made):
        super().__init__(dtype="mixed_float16")
        self.made = made

    def call(self, x):
        return self.made(x)


def test_model_of_another_type_that_cannot_be_copied():
    model = Opaque(layers.Dense(3, dtype="mixed_float16"))
    model(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"which uses float16, and copying failed(.|\n)*set_dtype_policy\('float32'\)"):
        converter.convert(model)


def test_values_beyond_float32_are_refused():
    model = keras.Sequential([keras.Input((4,), dtype="float64"), layers.Dense(3, dtype="float64")])
    model.layers[0].kernel.assign(np.full((4, 3), 1e300))
    with pytest.raises(ValueError, match="does not fit in float32"):
        converter.convert(model)


# What was pruned and is not any more, or does not show.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_weights_that_are_not_finite(which, bad):
    model = prune(keras.Sequential([keras.Input((16,)), layers.Dense(24, name="a"), layers.Dense(8, name="b")]))
    variable = model.weights[which]
    values = variable.numpy()
    values.flat[3] = bad
    variable.assign(values)
    with pytest.raises(
        ValueError, match=rf"expected finite weights, got {variable.path} with \d NaN and \d infinite of"
    ):
        tflite.export_tflite(model)


def test_pruned_weights_that_were_overwritten_are_refused():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
    dense = model.get_weights()
    keras_prune.prune(model, 0.8)
    model.set_weights(dense)
    with pytest.raises(ValueError, match=r"160 of 160 pruned weights \(100\.0%\)(.|\n)*list PruneCallback last"):
        tflite.export_tflite(model)
    assert packed_layers(flatbuffer.read(tflite.export_tflite(keras_prune.strip(model))))


def test_pruned_layers_that_stay_dense_are_reported(caplog):
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(16, 3, name="conv")(inputs)
    model = prune(keras.Model(inputs, layers.Dense(20, name="head")(layers.Flatten()(x))))
    with caplog.at_level("WARNING", "keras_prune"):
        tflite.export_tflite(model)
    (record,) = caplog.records
    assert "(16, 3, 3, 4) is pruned but stays dense: CONV_2D is not packed" in record.getMessage()
    caplog.clear()
    hand_made = small_model(sparse())
    tanh(hand_made)
    tflite.pack(flatbuffer.write(hand_made), weights=Codebook(), min_sparsity=0.1)
    assert "stays dense: its fused activation is not" in caplog.text
    caplog.clear()
    tflite.pack(flatbuffer.write(small_model(np.eye(2, 4))), weights=Codebook(), min_sparsity=0.1)
    assert not caplog.records  # packing it does not pay


def test_convert_options(lenet):
    sizes = [len(converter.convert(lenet, optimize=kind)) for kind in (None, "float16", "dynamic_range")]
    assert sizes[0] > 1.9 * sizes[1] > 1.9 * 1.9 * sizes[2]
    data = np.random.default_rng(0).random((20, 784))
    assert len(converter.convert(lenet, optimize="int8", representative_data=data)) < sizes[0] / 3.5
    with pytest.raises(ValueError, match="one of"):
        converter.convert(lenet, optimize="int4")
    with pytest.raises(ValueError, match="representative_data"):
        converter.convert(lenet, optimize="int8")


# Files.


def test_write_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    path.chmod(0o640)
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["model.tflite"]  # noqa: PTH208


def test_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    files.write_atomic(tmp_path / "model.tflite", b"new")
    assert (tmp_path / "model.tflite").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_write_through_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.tflite"]


def test_data_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"  # noqa: PTH112
        order.append((kind, os.fstat(handle).st_size if kind == "file" else 0))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    files.write_atomic(tmp_path / "model.tflite", b"new")
    assert order == [("file", 3), "rename", ("folder", 0)]


def test_killed_write_leaves_one_file_whole(tmp_path):
    """The writer is killed at the worst moments: before the temporary file is renamed, and just after."""
    path = tmp_path / "model.tflite"
    script = """
import os, sys
from keras_prune_export import files
real = os.replace
def replace(*arguments):
    if sys.argv[2] == "after":
        real(*arguments)
    os.kill(os.getpid(), 9)
os.replace = replace
files.write_atomic(sys.argv[1], b"new" * 1000)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for moment, content in [("before", b"old"), ("after", b"new" * 1000)]:
        path.write_bytes(b"old")
        result = subprocess.run([sys.executable, "-c", script, path, moment], env=environment, check=False)
        assert result.returncode == -9
        assert path.read_bytes() == content


def test_folder_as_path(tmp_path, lenet):
    with pytest.raises(IsADirectoryError, match="add a file name"):
        tflite.export_tflite(lenet, tmp_path)


def test_model_is_not_changed_where_batch_normalization_is_folded(conv, monkeypatch):
    before = [variable.numpy() for variable in conv.variables]
    calls = []
    convert = converter.convert

    def fail_at_the_second(model):
        calls.append(model)
        if len(calls) == 2:
            assert any((v.numpy() != b).any() for v, b in zip(conv.variables, before, strict=True))
            raise ValueError("stop")
        return convert(model)

    monkeypatch.setattr(converter, "convert", fail_at_the_second)
    with pytest.raises(ValueError, match="stop"):
        tflite.export_tflite(conv)
    for variable, values in zip(conv.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)
