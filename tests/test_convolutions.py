"""Convolutions that compute on packed weights, through the real interpreter."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from one_operator import model_of, sparse_weights  # type: ignore[import-not-found]
from stock_files import as_stock, operators, run, weights_of  # type: ignore[import-not-found]

import keras_prune
from keras_prune import Codebook, tensor_format
from keras_prune_export import flatbuffer, kernel_costs, packing
from keras_prune_export.flatbuffer import schema
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed as target
from keras_prune_export.targets.convolution import Options


@pytest.fixture
def always(monkeypatch):
    """Layers compute on packed weights wherever they can, however small they are."""
    monkeypatch.setattr(kernel_costs, "packed_pays", lambda works, *_: True)


def convolution(weights, *, size=(7, 9), batch=1, bias=True, **options):
    """A model of one CONV_2D; ``options`` are TFLite's."""
    fields = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0} | options
    extents = [(k - 1) * fields[f"dilation{axis}Factor"] + 1 for k, axis in zip(weights.shape[1:3], "HW", strict=True)]
    steps = [fields["strideH"], fields["strideW"]]
    lost = extents if fields["padding"] else [1, 1]
    sides = [(side - gone) // step + 1 for side, gone, step in zip(size, lost, steps, strict=True)]
    inputs = [(batch, *size, weights.shape[3]), weights]
    if bias:
        inputs.append(np.random.default_rng(1).normal(size=len(weights)).astype(np.float32))
    return model_of("CONV_2D", ("Conv2DOptions", fields), inputs, output=(batch, *sides, len(weights)))


def packed(model):
    return packing.pack(flatbuffer.write(model), Schemes(Codebook()))


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(got, want):
    """Sums of the same products in another order: 1e-5 of the largest output."""
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert got[name].shape == values.shape
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5 * np.abs(values).max())


def check(model, *inputs):
    data, layers = packed(model)
    assert [layer.form for layer in layers if len(layer.shape) == 4] == ["compute"]
    assert operators(data) == ["CUSTOM"]
    for x in inputs:
        assert_close(run(data, x), run(as_stock(data), x))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("padding", [0, 1], ids=["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_as_the_dense_operator(always, *, kernel, stride, padding, batch):
    model = convolution(
        sparse_weights(33, *kernel, 17), batch=batch, padding=padding, strideH=stride, strideW=3 - stride
    )
    check(model, images(batch, 7, 9, 17))


@pytest.mark.parametrize("padding", [0, 1], ids=["same", "valid"])
def test_dilations(always, padding):
    model = convolution(sparse_weights(8, 3, 2, 16), padding=padding, dilationHFactor=3, dilationWFactor=2)
    check(model, images(1, 7, 9, 16))


@pytest.mark.parametrize("activation", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_activation_and_bias(always, *, activation, bias):
    model = convolution(sparse_weights(16, 1, 1, 24), bias=bias, fusedActivationFunction=activation)
    check(model, 4 * images(1, 7, 9, 24))


def test_kernels_larger_than_the_image(always):
    check(convolution(sparse_weights(8, 5, 5, 16), size=(2, 3)), images(1, 2, 3, 16))


@pytest.mark.parametrize("density", [0.004, 0.85])
def test_densities(always, density):
    check(convolution(sparse_weights(40, 3, 3, 16, density=density)), images(1, 7, 9, 16))


def test_resizing(always):
    """From a few pixels, which have another layout, to many and back."""
    model = convolution(sparse_weights(33, 3, 3, 16), size=(1, 2))
    check(model, *(images(*shape, 16) for shape in [(1, 1, 2), (3, 8, 5), (1, 30, 31), (1, 1, 1)]))


def test_threads_do_not_change_results(always):
    data, _ = packed(convolution(sparse_weights(64, 3, 3, 32), size=(40, 41)))
    x, results = images(1, 40, 41, 32), []
    for threads in (1, 2, 3):
        interpreter = keras_prune.load_interpreter(data, num_threads=threads)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_weights_that_two_operators_share(always):
    model = convolution(sparse_weights(16, 1, 1, 16))
    graph = model.subgraphs[0]
    first = graph.operators[0]
    second = schema.OperatorT()
    second.opcodeIndex, second.builtinOptionsType = first.opcodeIndex, first.builtinOptionsType
    second.builtinOptions = first.builtinOptions
    graph.tensors.append(model_of("RELU", None, [(1, 7, 9, 16)], output=(1, 7, 9, 16)).subgraphs[0].tensors[-1])
    graph.tensors[-1].name = "z"
    end = len(graph.tensors) - 1
    second.inputs = np.array([first.outputs[0], *first.inputs[1:]], np.int32)
    second.outputs = graph.outputs = np.array([end], np.int32)
    graph.operators = [first, second]
    data, _ = packed(model)
    assert operators(data) == ["CUSTOM", "CUSTOM"]
    assert data.count(b"KPRI\2") == 1
    assert_close(run(data, images(1, 7, 9, 16)), run(as_stock(data), images(1, 7, 9, 16)))


# As MobileNet's: 1x1 convolutions between depthwise ones, which stay the runtime's.
def mobile_net(size=20, channels=(24, 40, 64)):
    x = y = keras.Input((size, size, 3))
    y = keras.layers.Conv2D(channels[0], 3, strides=2, padding="same", activation="relu6")(y)
    for number, width in enumerate(channels):
        y = keras.layers.DepthwiseConv2D(3, strides=1 + number % 2, padding="same", activation="relu6")(y)
        y = keras.layers.Conv2D(width, 1, activation="relu6", bias_initializer="normal")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, keras.layers.Dense(10)(y))


def test_a_stack_of_1x1_convolutions(always, seeded):
    model = keras_prune.prune(mobile_net(), 0.8)
    data = keras_prune.export_tflite(model)
    forms = {layer.form for layer in packed_layers(flatbuffer.read(data)) if layer.shape[1:3] == (1, 1)}
    assert forms == {"compute"}
    assert operators(data).count("DEPTHWISE_CONV_2D") == 3
    for batch in (1, 3):
        x = images(batch, 20, 20, 3)
        assert_close(run(data, x), run(as_stock(data), x))


def test_the_report_has_the_shape_of_the_kernel(always):
    data, _ = packed(convolution(sparse_weights(20, 3, 2, 16)))
    layer, *_ = (layer for layer in packed_layers(flatbuffer.read(data)) if layer.form == "compute")
    assert (layer.shape, layer.kept) == ((20, 3, 2, 16), np.count_nonzero(sparse_weights(20, 3, 2, 16)))
    assert any(values.shape == (20, 3, 2, 16) for values in weights_of(data).values())


def grouped(model):
    model.subgraphs[0].tensors[0].shape = np.array([1, 7, 9, 32], np.int32)


def options(**fields):
    def edit(model):
        for name, value in fields.items():
            setattr(model.subgraphs[0].operators[0].builtinOptions, name, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (grouped, "it is a grouped convolution"),
        (options(fusedActivationFunction=4), "its fused activation is not none"),
        (options(strideW=256), "not from 1 to 255"),
        (options(dilationHFactor=0), "not from 1 to 255"),
    ],
)
def test_what_cannot_compute_is_expanded(always, *, edit, reason):
    model = convolution(sparse_weights(16, 3, 3, 16))
    edit(model)
    choice, *_ = (layer for layer in packed(model)[1] if len(layer.shape) == 4)
    assert choice.form == "expand"
    assert reason in choice.reason


def test_few_channels_stay_dense(always):
    for channels, kernel, form in ((8, 3, "expand"), (8, 1, "compute"), (16, 3, "compute")):
        _, (layer, *_) = packed(convolution(sparse_weights(64, kernel, kernel, channels)))
        assert layer.form == form
        assert (form == "compute") != ("patches of several pixels and fewer than 16 channels" in layer.reason)


OPTIONS = {
    "01030100030502010104000079e8fa85": Options((3, 5), (2, 1), (1, 4), "valid", 3),
    "0100000101010101010100002e6294d2": Options((1, 1), activations="int8"),
    "020703050201010400000040038b27b3": Options((3, 5), (2, 1), (1, 4), "valid", 3, "int8", 2.0),
}


def test_options_golden():
    for text, made in OPTIONS.items():
        assert made.to_bytes().hex() == text
        assert Options.from_bytes(made.to_bytes()) == made


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(0, 3, "of version 1 or 2"), (1, 8, "not known"), (4, 0, "not known"), (11, 255, "not known")],
)
def test_options_are_checked(at, value, *, message, static):
    made = Options((1, 1), activations="int8", x_scale=1.0) if static else Options((1, 1))
    data = bytearray(made.to_bytes())
    data[at] = value
    with pytest.raises(ValueError, match=message):
        Options.from_bytes(bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        Options.from_bytes(made.to_bytes()[:-1] + b"\0")


@pytest.mark.parametrize(("at", "value"), [(1, 4), (2, 2), (3, 2), (10, 1)])
def test_options_of_version_1_are_checked(at, value):
    data = bytearray(Options((1, 1)).to_bytes())
    data[at] = value
    with pytest.raises(ValueError, match="not known"):
        Options.from_bytes(bytes(data))


def test_weights_that_are_no_patches():
    with pytest.raises(ValueError, match="of 3 x 3 x channels columns, got 16"):
        Options((3, 3)).weights_shape(8, 16)


def damaged(change):
    data, _ = packed(convolution(sparse_weights(16, 1, 1, 24)))
    model = flatbuffer.read(data)
    graph = model.subgraphs[0]
    change(model, graph, graph.operators[-1])
    return flatbuffer.write(model)


def with_options(**fields):
    def change(model, graph, op):
        op.customOptions = np.frombuffer(Options(**{"kernel": (1, 1)} | fields).to_bytes(), np.uint8)

    return change


def short_options(model, graph, op):
    op.customOptions = op.customOptions[:-1]


def other_bias(model, graph, op):
    graph.tensors[op.inputs[2]].shape = np.array([4, 4], np.int32)


def flat_images(model, graph, op):
    graph.tensors[op.inputs[0]].shape = np.array([63, 24], np.int32)


def flipped(model, graph, op):
    data = np.array(model.buffers[graph.tensors[op.inputs[1]].buffer].data)
    data[-1] ^= 1
    model.buffers[graph.tensors[op.inputs[1]].buffer].data = data


def without_codebook(model, graph, op):
    data = np.frombuffer(tensor_format.encode_scaled(np.ones((16, 24), np.int8), np.ones(16, np.float32)), np.uint8)
    weights = graph.tensors[op.inputs[1]]
    model.buffers[weights.buffer].data, weights.shape = data, np.array([len(data)], np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_options(kernel=(2, 1)), r"expected 24 / \(2 x 1\) channels as the packed weights have columns, got 24"),
        (short_options, "expected 16 bytes of options, got 15"),
        (other_bias, r"bias .* expected shape \[16\]"),
        (flat_images, "expected rank 4"),
        (flipped, "packed weights .* checksum"),
        (without_codebook, r"expected values of a codebook \(0\), got kind 1"),
    ],
)
def test_the_delegate_refuses_damaged_files(always, *, change, message):
    with pytest.raises(ValueError, match=f"KerasPruneConv2D: .*{message}"):
        keras_prune.load_interpreter(damaged(change))


def test_a_file_that_computes_is_packed_already(always):
    data, _ = packed(convolution(sparse_weights(16, 1, 1, 24)))
    assert target.CONVOLVE.encode() in data
    with pytest.raises(ValueError, match="not packed yet"):
        keras_prune.pack_tflite(data)
