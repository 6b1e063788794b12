"""With activations="int8", layers on which dense int8 kernels are faster become such ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tflite_models  # type: ignore[import-not-found]
from one_operator import model_of, sparse_weights  # type: ignore[import-not-found]
from pruned_models import prune  # type: ignore[import-not-found]

import keras_prune
from keras_prune import int8_activations
from keras_prune.quantization import Codebook
from keras_prune_export import activation_kinds, flatbuffer, kernel_costs, packing
from keras_prune_export.activations import Activations
from keras_prune_export.flatbuffer import schema
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations import choose, dense_int8
from keras_prune_export.transformations.int8_activations import computing, options_of

layers = keras.layers
WEIGHTS = sparse_weights(24, 400)
BIAS = np.linspace(-1, 1, 24).astype(np.float32)


def source(weights=WEIGHTS, bias=BIAS, **options):
    return flatbuffer.write(
        model_of(
            "FULLY_CONNECTED",
            ("FullyConnectedOptions", {"fusedActivationFunction": 1, **options}),
            [(3, weights.shape[1]), weights, bias],
            output=(3, len(weights)),
        )
    )


def convolution(weights, *, x_shape=(1, 7, 9), bias=BIAS, **options):
    """A file of one CONV_2D with fused ReLU."""
    fields = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0} | options
    fields["fusedActivationFunction"] = 1
    inputs = [(*x_shape, weights.shape[3]), weights, bias]
    output = (*(-(-size // fields["strideH"]) for size in x_shape), len(weights))
    return flatbuffer.write(model_of("CONV_2D", ("Conv2DOptions", fields), inputs, output=(x_shape[0], *output[1:])))


@pytest.fixture
def dense_wins(monkeypatch):
    packed_pays(monkeypatch, "float32")


def packed_pays(monkeypatch, *kinds):
    """Dense kernels are twice as fast with the other kinds of activations."""
    monkeypatch.setattr(kernel_costs, "packed_pays", lambda works, activations: activations in kinds)
    monkeypatch.setattr(kernel_costs, "speedup", lambda works, activations: 2.0)
    monkeypatch.setattr(kernel_costs, "dense_form", lambda works, activations: "dense_int8")


def packed(data, kind="int8", scheme=None):
    return packing.pack(data, Schemes(scheme or Codebook()), activations=Activations(kind))


def run(data, x):
    interpreter = keras_prune.load_interpreter(data, num_threads=1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[-1]["index"])


@pytest.mark.usefixtures("dense_wins")
def test_what_the_file_holds_and_says():
    data, (layer,) = packed(source())
    model = flatbuffer.read(data)
    kinds = [flatbuffer.builtin_code(model, op) for op in model.subgraphs[0].operators]
    assert kinds == [schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.FULLY_CONNECTED]
    operator = model.subgraphs[0].operators[1]
    weights = model.subgraphs[0].tensors[operator.inputs[1]]
    assert weights.type == schema.TensorType.INT8
    assert weights.buffer == 0
    assert weights.quantization.zeroPoint.tolist() == [0]
    assert model.operatorCodes[operator.opcodeIndex].version == 5
    assert not operator.builtinOptions.asymmetricQuantizeInputs
    assert operator.builtinOptions.fusedActivationFunction == 1
    assert layer.form == "expand"
    assert layer.reason.startswith(f"expanded at load to int8: {layer.kept / 9600:.1%} of the weights are kept, dense ")
    float_data, (float_layer,) = packed(source(), "float32")
    assert float_layer.form == "compute"
    assert len(data) <= len(float_data) + 600  # the operator that expands, and its tensors


@pytest.mark.usefixtures("dense_wins")
@pytest.mark.parametrize("bias", [BIAS, None])
def test_outputs_are_those_of_int8_activations(bias):
    data, _ = packed(source(bias=bias))
    codes, codebook = Codebook().fit(WEIGHTS)
    x = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    exact = x @ codebook[codes].T
    want = np.maximum(exact if bias is None else exact + bias, 0)
    # The runtime may round x with a zero point: to steps of (max - min) / 255, which are not above ours.
    errors = np.abs(run(data, x) - want)
    assert (errors <= int8_activations.error_bound(x, codes, codebook) + 1e-4).all()
    assert errors.max() > 0


@pytest.mark.usefixtures("dense_wins")
def test_layers_that_stay_float32_keep_their_operator():
    rng = np.random.default_rng(0)
    model = tflite_models.small_model(tflite_models.sparse(24, 40))
    graph = model.subgraphs[0]
    model.buffers.append(tflite_models.buffer(rng.normal(size=(8, 40)).astype(np.float32)))
    graph.tensors.append(tflite_models.tensor("full", [8, 40], len(model.buffers) - 1))
    graph.tensors.append(tflite_models.tensor("other", [1, 8], 2))
    graph.operators.append(tflite_models.fully_connected([0, len(graph.tensors) - 2, -1], [len(graph.tensors) - 1]))
    graph.outputs = np.append(graph.outputs, len(graph.tensors) - 1).astype(np.int32)
    before = flatbuffer.write(model)
    data, layers = packed(before)
    assert {layer.form for layer in layers} == {"expand", "stock"}
    x = rng.normal(size=(1, 40)).astype(np.float32)
    np.testing.assert_array_equal(run(data, x), run(before, x))
    versions = [code.version for code in flatbuffer.read(data).operatorCodes if not code.customCode]
    assert sorted(versions) == [1, 5]


@pytest.mark.parametrize("pays", [("float32",), ("int8",), (), ("float32", "int8")])
def test_each_kind_has_its_own_choice(monkeypatch, pays):
    packed_pays(monkeypatch, *pays)
    for kind in ("float32", "int8"):
        _, (layer,) = packed(source(), kind)
        assert layer.form == ("compute" if kind in pays else "expand")
        assert ("to int8" in layer.reason) == (kind == "int8" and layer.form == "expand")


@pytest.mark.usefixtures("dense_wins")
def test_weights_without_a_codebook_stay_float32():
    with pytest.raises(ValueError, match="packed compute needs a codebook"):
        packed(source(), scheme="lossless")


@pytest.mark.usefixtures("dense_wins")
def test_a_file_of_dense_int8_layers_alone_has_no_scales_and_no_other_kind():
    data, _ = packed(source())
    x = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    calibrated, _ = packing.pack(source(), Schemes(Codebook()), activations=Activations("int8", x, "pack_tflite"))
    assert calibrated == data
    assert activation_kinds.variants(data) == {}


def test_a_file_of_dense_int8_layers_and_float32_convolutions_has_no_other_kind(monkeypatch):
    """What is on packed weights is float32, but the file as a whole is not."""
    image, row = keras.Input((6, 6, 16)), keras.Input((400,))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3)(image))
    model = prune(keras.Model([image, row], [pooled, layers.Dense(24)(row)]))
    monkeypatch.setattr(kernel_costs, "packed_pays", lambda works, kind: kind == "float32" or works[0].inputs)
    monkeypatch.setattr(kernel_costs, "packed_form", lambda works, kind: "packed")
    data = keras_prune.export_tflite(model, activations="int8")
    file = flatbuffer.read(data)
    assert [options_of(file, op).activations for _, op in computing(file)] == ["float32"]
    assert dense_int8.has_dense_int8(file)
    assert activation_kinds.own_kind(data) == ""
    assert activation_kinds.variants(data) == {}
    plain = keras_prune.export_tflite(model)
    assert not dense_int8.has_dense_int8(flatbuffer.read(plain))
    assert activation_kinds.own_kind(plain) == "float32"


def test_codes_and_scale():
    values = np.array([[0, 1.27, -0.005], [-0.6, 0.0149, 0]], np.float32)
    codes, scale = dense_int8.quantized(values)
    assert codes.tolist() == [[0, 127, -1], [-60, 1, 0]]
    assert scale == pytest.approx(0.01)
    codes, scale = dense_int8.quantized(np.zeros((2, 3), np.float32))
    assert (codes.dtype, codes.any(), scale) == (np.int8, False, 1)


@pytest.mark.usefixtures("dense_wins")
def test_what_the_file_of_a_convolution_holds_and_says():
    weights = sparse_weights(24, 3, 3, 16)
    data, (layer,) = packed(convolution(weights))
    model = flatbuffer.read(data)
    kinds = [flatbuffer.builtin_code(model, op) for op in model.subgraphs[0].operators]
    assert kinds == [schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.CONV_2D]
    operator = model.subgraphs[0].operators[1]
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    assert (tensor.type, tensor.buffer, tensor.shape.tolist()) == (schema.TensorType.INT8, 0, [24, 3, 3, 16])
    codes, codebook = Codebook(8).fit(weights)
    assert tensor.quantization.scale.tolist() == [np.abs(codebook).max() / np.float32(127)]
    assert tensor.quantization.zeroPoint.tolist() == [0]
    assert model.operatorCodes[operator.opcodeIndex].version == 2
    kept = np.count_nonzero(codes)
    reason = f"expanded at load to int8: {kept / 3456:.1%} of the weights are kept, dense kernels are 2.0 times as fast"
    assert (layer.form, layer.reason) == ("expand", reason)


@pytest.mark.usefixtures("dense_wins")
@pytest.mark.parametrize(
    ("kernel", "options", "shape"),
    [
        ((1, 1), {}, {}),
        ((3, 3), {}, {}),
        ((3, 3), {"strideH": 2, "strideW": 2}, {"strides": (2, 2)}),
        ((2, 3), {"dilationHFactor": 2, "dilationWFactor": 3}, {"dilations": (2, 3)}),
    ],
)
def test_outputs_of_a_convolution_are_those_of_int8_activations(kernel, options, shape):
    weights = sparse_weights(24, *kernel, 16)
    data, _ = packed(convolution(weights, x_shape=(2, 8, 9), **options), scheme=Codebook(4))
    codes, codebook = Codebook(4).fit(weights.reshape(24, -1))
    x = np.random.default_rng(0).normal(size=(2, 8, 9, 16)).astype(np.float32)
    x[1] *= 100  # each image has a step of its own
    got, rows = run(data, x), int8_activations.patches(x, kernel, **shape)
    want = np.maximum(rows @ codebook[codes].T + BIAS, 0)
    assert got.shape == want.shape
    for image in range(2):
        step = np.abs(x[image]).max() / 127
        bound = int8_activations.error_bound(rows[image].reshape(-1, rows.shape[-1]), codes, codebook, scale=step)
        errors = np.abs(got[image] - want[image]).reshape(bound.shape)
        assert (errors <= bound + 1e-4 * step * 127).all()
        assert errors.max() > 0


def test_a_convolution_stays_float32_where_that_is_faster(monkeypatch):
    packed_pays(monkeypatch, "float32")
    monkeypatch.setattr(kernel_costs, "dense_form", lambda works, activations: "dense")
    data = convolution(sparse_weights(24, 1, 1, 16))
    with pytest.raises(ValueError, match=r"dense kernels are 2\.0 times as fast, in float32 more so than in int8"):
        packed(data)  # of one layer, so that nothing in it would be int8
    model = flatbuffer.read(data)
    (choice,) = choose.choose(model, Schemes(Codebook()))
    assert choice.form == "compute"
    (stays,) = choose.for_int8(model, [choice])
    assert (stays.form, stays.int8_scale, stays.packed) == ("expand", None, choice.packed)


@pytest.mark.parametrize("pays", [("float32",), ("int8",), (), ("float32", "int8")])
def test_each_kind_has_its_own_choice_of_convolutions(monkeypatch, pays):
    packed_pays(monkeypatch, *pays)
    for kind in ("float32", "int8"):
        _, (layer,) = packed(convolution(sparse_weights(24, 3, 3, 16)), kind)
        assert layer.form == ("compute" if kind in pays else "expand")
        assert ("to int8" in layer.reason) == (kind == "int8" and layer.form == "expand")
