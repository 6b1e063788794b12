"""TFLite's own sparse tensors: decoded exactly, replaced by ours where that is smaller, refused where damaged."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from one_operator import MODELS, sparse_weights  # type: ignore[import-not-found]
from sparse_files import DENSE, SPARSE, with_densify  # type: ignore[import-not-found]
from stock_files import assert_equal, operators, run, weights_of  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.transformations.densify import densify

WEIGHTS = sparse_weights(16, 3, 3, 8)
LAYOUTS = {
    "last dimension": {},
    "every dimension": {"formats": [SPARSE] * 4},
    "sparse, then dense": {"formats": [DENSE, SPARSE, DENSE, DENSE]},
    "another order": {"order": [3, 0, 2, 1]},
    "blocks": {"blocks": [(3, 4)]},
    "blocks of two dimensions": {"blocks": [(0, 2), (3, 4)], "order": [0, 2, 1, 3]},
}


def sparse_model(**layout):
    model = MODELS["CONV_2D"]()
    return model, with_densify(model, "constant1", **layout)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_values_are_those_of_the_runtime(layout):
    model, stored = sparse_model(**layout)
    np.testing.assert_array_equal(densify(model, stored), WEIGHTS)
    interpreter = Interpreter(
        model_content=flatbuffer.write(model),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 6, 6, 8), np.float32))
    interpreter.invoke()
    (index,) = model.subgraphs[0].operators[0].outputs
    np.testing.assert_array_equal(interpreter.get_tensor(index), WEIGHTS)


@pytest.mark.parametrize("weights", ["lossless", Codebook(bits=4)])
def test_densify_goes_and_its_output_is_expanded(weights):
    model, _ = sparse_model()
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data, weights=weights)
    assert len(result) < 0.9 * len(data)
    assert operators(result) == ["CUSTOM", "CONV_2D"]
    (layer,) = packed_layers(flatbuffer.read(result))
    assert (layer.name, layer.shape, layer.kept) == ("constant1", (16, 3, 3, 8), np.count_nonzero(WEIGHTS))
    assert b"constant1/sparse" not in result
    if weights == "lossless":
        np.testing.assert_array_equal(weights_of(result)["constant1"], WEIGHTS)
        assert_equal(run(result), run(data))


def test_two_densify_of_one_tensor_are_expanded_once():
    model, stored = sparse_model()
    graph = model.subgraphs[0]
    first = graph.operators[0]
    again, copied = schema.OperatorT(), schema.TensorT()
    copied.name, copied.shape, copied.type, copied.buffer = "copy", stored.shape, stored.type, 0
    graph.tensors.append(copied)
    again.opcodeIndex, again.inputs = first.opcodeIndex, first.inputs
    again.outputs = np.array([len(graph.tensors) - 1], np.int32)
    second = schema.OperatorT()
    vars(second).update(vars(graph.operators[1]))
    second.inputs = np.array([second.inputs[0], again.outputs[0], second.inputs[2]], np.int32)
    out = schema.TensorT()
    vars(out).update(vars(graph.tensors[graph.outputs[0]]))
    out.name = "z"
    graph.tensors.append(out)
    second.outputs = np.array([len(graph.tensors) - 1], np.int32)
    graph.outputs = np.array([*graph.outputs, *second.outputs], np.int32)
    graph.operators += [again, second]
    data = flatbuffer.write(model)
    result = keras_prune.pack_tflite(data)
    assert operators(result) == ["CUSTOM", "CONV_2D", "CONV_2D"]
    assert len(flatbuffer.read(result).subgraphs[0].operators[0].outputs) == 1
    assert_equal(run(result), run(data))


def test_sparse_tensors_that_pay_as_they_are_stay():
    model = MODELS["CONV_2D"]()
    nearly = np.zeros((16, 3, 3, 8), np.float32)
    nearly[3, 1, 2, 5] = 1
    model.buffers[1].data = np.frombuffer(nearly.tobytes(), np.uint8)
    with_densify(model, "constant1", formats=[SPARSE] * 4)
    result = keras_prune.pack_tflite(flatbuffer.write(model))
    assert operators(result) == ["DENSIFY", "CONV_2D"]


def edit_of(level, field, value):
    def edit(stored):
        holder = stored.sparsity.dimMetadata[level]
        *path, last = field.split(".")
        for name in path:
            holder = getattr(holder, name)
        setattr(holder, last, value)

    return edit


def other_order(stored):
    stored.sparsity.traversalOrder = np.array([0, 1, 2, 2], np.int32)


def unknown_block(stored):
    stored.sparsity.blockMap = np.array([9], np.int32)


def fewer_levels(stored):
    stored.sparsity.dimMetadata = stored.sparsity.dimMetadata[:-1]


def huge(stored):
    stored.shape = np.array([2**30, 3, 3, 8], np.int32)
    stored.sparsity.dimMetadata[0].denseSize = 2**30


def without_order(stored):
    stored.sparsity.traversalOrder = None


@pytest.mark.parametrize(
    "edit",
    [
        edit_of(0, "denseSize", 15),
        edit_of(0, "format", 7),
        edit_of(0, "denseSize", 2**31 - 1),
        edit_of(3, "arraySegments.values", np.zeros(145, np.int32)),
        edit_of(3, "arraySegments.values", np.zeros(7, np.int32)),
        edit_of(3, "arraySegments.values", np.array([5, *range(144)], np.int32)),
        edit_of(3, "arrayIndices.values", np.full(241, 8, np.uint8)),
        edit_of(3, "arrayIndices.values", np.zeros(241, np.uint8)),
        edit_of(3, "arrayIndices", None),
        other_order,
        unknown_block,
        fewer_levels,
        without_order,
        huge,
    ],
)
def test_damaged_metadata_is_refused(edit):
    model, stored = sparse_model()
    edit(stored)
    for tensor in model.subgraphs[0].tensors:
        if tensor.name == "constant1":
            tensor.shape = stored.shape
    with pytest.raises(ValueError, match=r"sparse tensor 'constant1/sparse' is damaged: .*make the file again"):
        keras_prune.pack_tflite(flatbuffer.write(model))
