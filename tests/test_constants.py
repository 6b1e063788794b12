"""Which constants must stay as they are, and why."""

from __future__ import annotations

import numpy as np
import pytest
from one_operator import MODELS, sparse_weights, with_float16  # type: ignore[import-not-found]
from stock_files import assert_equal, operators, run  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import edits, flatbuffer, packing
from keras_prune_export.flatbuffer import schema
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations import constants


def weights_tensor(model):
    return next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == "constant1")


def returned(model):
    model.subgraphs[0].outputs = np.array([*model.subgraphs[0].outputs, 1], np.int32)


def in_a_signature(model):
    entry, signature = schema.TensorMapT(), schema.SignatureDefT()
    entry.name, entry.tensorIndex = "w", 1
    signature.signatureKey, signature.subgraphIndex, signature.inputs, signature.outputs = "s", 0, [entry], []
    model.signatureDefs = [signature]


def variable(model):
    weights_tensor(model).isVariable = True


def read_by_a_custom_operator(model):
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs = edits.custom_code(model, "Mine"), np.array([1], np.int32)
    op.outputs = np.zeros(0, np.int32)
    model.subgraphs[0].operators.append(op)


def in_a_validation_subgraph(model):
    model.subgraphs[0].name = "VALIDATION:main"


def with_control_dependencies(model):
    entry = schema.MetadataT()
    entry.name, entry.buffer = "model_control_dependencies", edits.add_buffer(model, bytes(4))
    model.metadata = [entry]


def of_another_shape(model):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = "other", np.array([144, 8], np.int32), 0, 1
    graph = model.subgraphs[0]
    graph.tensors.append(tensor)
    graph.outputs = np.array([*graph.outputs, len(graph.tensors) - 1], np.int32)


def of_another_type(model):
    weights_tensor(model).type = schema.TensorType.INT32


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (returned, "the caller reads it"),
        (in_a_signature, "the caller reads it"),
        (variable, "an operator writes it"),
        (read_by_a_custom_operator, "a custom operator reads it"),
        (in_a_validation_subgraph, "the runtime gives its subgraph to no delegate"),
        (with_control_dependencies, "a metadata entry counts the operators"),
        (of_another_shape, "several tensors of different types or shapes share its bytes"),
    ],
)
def test_what_stays_and_why(edit, reason):
    model = MODELS["CONV_2D"]()
    edit(model)
    data = flatbuffer.write(model)
    result, layers = packing.pack(data, Schemes("lossless"))
    (layer,) = (layer for layer in layers if layer.name == "constant1")
    assert (layer.form, layer.reason) == ("stock", reason)
    assert operators(result) == operators(data)


def test_other_types_are_left_out():
    model = MODELS["CONV_2D"]()
    of_another_type(model)
    assert [c.name for c in constants.find(model)] == ["constant2"]


def test_start_values_and_biases_are_exact_whatever_is_asked_for():
    """Only what multiplies activations, or is looked up, is quantized: an addend is not, however empty it is."""
    model = MODELS["CONV_2D"]()
    addend = sparse_weights(1, 6, 6, 16)
    graph = model.subgraphs[0]
    for name, number in [("addend", edits.add_buffer(model, addend.tobytes())), ("z", 0)]:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, np.array(addend.shape, np.int32), number
        graph.tensors.append(tensor)
    code, op = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model.operatorCodes.append(code)
    count = len(graph.tensors)
    op.opcodeIndex, op.inputs, op.outputs = 1, np.int32([graph.outputs[0], count - 2]), np.int32([count - 1])
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.operators.append(op)
    graph.outputs = op.outputs
    data = flatbuffer.write(model)
    choices = packing.choose(packing.load(data, "test"), Schemes(Codebook(bits=2)))
    assert {choice.name: choice.is_exact for choice in choices} == {"constant1": False, "addend": True}
    result, layers = packing.pack(data, Schemes("lossless"))
    assert {layer.name: layer.form for layer in layers} == {"constant1": "expand", "addend": "expand"}
    assert_equal(run(result), run(data))


def test_weights_are_looked_for_behind_dequantize():
    model = MODELS["CONV_2D"]()
    with_float16(model, "constant1")
    found = {constant.name: constant for constant in constants.find(model)}
    view = found["constant1"].views[-1]
    assert constants.is_weight(model, view)
    assert not constants.is_fully_connected(model, view)
    assert constants.reader_kinds(model, view) == ["CONV_2D"]
    assert not constants.is_weight(model, found["constant2"].views[-1])
