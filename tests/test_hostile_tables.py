"""Well-formed .tflite files that say impossible things: a ValueError or a right result, in bounded time and memory."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from hostile_files import (  # type: ignore[import-not-found]
    allowed_bytes,
    conv,
    peak_bytes,
    read_all,
    seeds,
    sparse_conv,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from one_operator import sparse_weights  # type: ignore[import-not-found]
from sparse_files import DENSE, SPARSE  # type: ignore[import-not-found]
from stock_files import weights_of  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.transformations.densify import densify

_int32 = st.one_of(st.integers(-3, 9), st.sampled_from([-(2**31), 2**30, 2**31 - 1]))
_vector = st.lists(_int32, max_size=6)
_level = st.fixed_dictionaries(
    {"format": st.sampled_from([DENSE, SPARSE, 2, -1]), "denseSize": _int32, "segments": _vector, "indices": _vector}
)


def metadata(level):
    """A level of sparsity; negative list items are those of int32, others of uint8."""
    made = schema.DimensionMetadataT()
    made.format, made.denseSize = level["format"], level["denseSize"]
    made.arraySegmentsType, made.arraySegments = schema.SparseIndexVector.Int32Vector, schema.Int32VectorT()
    made.arraySegments.values = np.array(level["segments"], np.int32)
    made.arrayIndicesType, made.arrayIndices = schema.SparseIndexVector.Int32Vector, schema.Int32VectorT()
    made.arrayIndices.values = np.array(level["indices"], np.int32)
    return made


@settings(max_examples=60)
@given(
    vectors=st.tuples(st.lists(_int32, max_size=4), _vector, st.lists(_int32, max_size=3)),
    levels=st.lists(_level, max_size=5),
    count=st.integers(0, 6),
)
def test_sparse_metadata_of_any_kind(vectors, levels, count):
    shape, order, blocks = vectors
    model = sparse_conv()
    tensor = model.subgraphs[0].tensors[-1]
    assert tensor.sparsity is not None
    tensor.shape, tensor.sparsity.traversalOrder = np.array(shape, np.int32), np.array(order, np.int32)
    tensor.sparsity.blockMap, tensor.sparsity.dimMetadata = np.array(blocks, np.int32), [metadata(x) for x in levels]
    model.buffers[tensor.buffer].data = np.ones(count, "<f4").view(np.uint8)
    data = flatbuffer.write(model)
    read_all(data)
    try:
        dense = densify(model, tensor)
    except ValueError:
        return
    assert list(dense.shape) == shape  # as many ones as are stored, each at a place of its own
    assert np.count_nonzero(dense) == count


@settings(max_examples=60)
@given(level=st.integers(0, 3), field=st.sampled_from(["denseSize", "segments", "indices", "format"]), data=st.data())
def test_one_wrong_thing_in_good_sparse_metadata(level, field, data):
    model = sparse_conv(formats=[SPARSE, DENSE, SPARSE, SPARSE])
    want = sparse_weights(8, 2, 2, 8)
    tensor = model.subgraphs[0].tensors[-1]
    chosen = tensor.sparsity.dimMetadata[level]
    if field in ("denseSize", "format"):
        setattr(chosen, field, data.draw(_int32) % (128 if field == "format" else 2**31))
    else:
        vector = getattr(chosen, {"segments": "arraySegments", "indices": "arrayIndices"}[field])
        if vector is None:
            return
        values = np.array(vector.values, np.int64)
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.integers(0, 255))
        vector.values = values.astype(vector.values.dtype)
    read_all(flatbuffer.write(model))
    try:
        dense = densify(model, tensor)
    except ValueError:
        return
    np.testing.assert_array_equal(np.sort(dense[dense != 0]), np.sort(want[want != 0]))


_CHANGES = {
    "negative shape": lambda m, graph, op: setattr(graph.tensors[1], "shape", np.array([-8, -2, 2, 8], np.int32)),
    "two unknown sides": lambda m, graph, op: setattr(graph.tensors[1], "shape", np.array([-1, -1, 2, 8], np.int32)),
    "no side": lambda m, graph, op: setattr(graph.tensors[1], "shape", None),
    "a side of 0": lambda m, graph, op: setattr(graph.tensors[1], "shape", np.array([0, 2, 2, 8], np.int32)),
    "a huge shape": lambda m, graph, op: setattr(graph.tensors[1], "shape", np.full(4, 2**31 - 1, np.int32)),
    "40 sides": lambda m, graph, op: setattr(graph.tensors[1], "shape", np.array([8, 2, 2, 8] + 36 * [1], np.int32)),
    "another type": lambda m, graph, op: setattr(graph.tensors[1], "type", schema.TensorType.INT64),
    "an unknown type": lambda m, graph, op: setattr(graph.tensors[1], "type", 100),
    "half a value": lambda m, graph, op: setattr(m.buffers[1], "data", m.buffers[1].data[:-2]),
    "a huge operator": lambda m, graph, op: setattr(m.operatorCodes[0], "builtinCode", 2**31 - 1),
    "a negative operator": lambda m, graph, op: setattr(m.operatorCodes[0], "builtinCode", -(2**31)),
    "no inputs": lambda m, graph, op: setattr(op, "inputs", None),
    "no outputs": lambda m, graph, op: setattr(op, "outputs", None),
    "absent inputs": lambda m, graph, op: setattr(op, "inputs", np.full(3, -1, np.int32)),
    "an output that is its input": lambda m, graph, op: setattr(op, "outputs", np.array([1], np.int32)),
    "the weights are the output": lambda m, graph, op: setattr(graph, "outputs", np.array([1], np.int32)),
    "the weights are a variable": lambda m, graph, op: setattr(graph.tensors[1], "isVariable", True),
    "no operators": lambda m, graph, op: setattr(graph, "operators", None),
    "no name": lambda m, graph, op: setattr(graph.tensors[1], "name", None),
    "a name that is no text": lambda m, graph, op: setattr(
        graph.tensors[1], "name", b"\xff\xfe;;\x80".decode("latin1")
    ),
    "other options": lambda m, graph, op: op.__dict__.update(
        builtinOptionsType=schema.BuiltinOptions.ReshapeOptions, builtinOptions=schema.ReshapeOptionsT()
    ),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_impossible_models(what):
    model = conv()
    graph = model.subgraphs[0]
    _CHANGES[what](model, graph, graph.operators[0])
    data = flatbuffer.write(model)
    assert peak_bytes(data) <= allowed_bytes(data)
    try:
        result = keras_prune.pack_tflite(data)
    except ValueError:
        return
    if packed_layers(flatbuffer.read(result)):
        assert any(np.array_equal(values, sparse_weights(8, 2, 2, 8)) for values in weights_of(result).values())


def test_a_fully_connected_operator_with_another_ones_options_is_not_computed():
    """The runtime reads no activation there; the other operator's must not become the packed one's."""
    model = small_model(sparse())
    for graph in model.subgraphs:
        op = graph.operators[0]
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
        op.builtinOptions.fusedActivationFunction = 1
    result = keras_prune.pack_tflite(flatbuffer.write(model))
    assert {layer.form for layer in packed_layers(flatbuffer.read(result))} == {"expand"}


@pytest.mark.parametrize("where", ["subgraph", "input", "output"])
def test_signatures_that_point_nowhere(where):
    model = small_model(sparse())
    chosen = model.signatureDefs[1]
    if where == "subgraph":
        chosen.subgraphIndex = 2**32 - 1
    else:
        getattr(chosen, f"{where}s")[0].tensorIndex = 4
    data = flatbuffer.write(model)
    assert all("damaged bytes" in str(error) for error in read_all(data).values())


@pytest.mark.parametrize("which", ["inputs", "outputs"])
@pytest.mark.parametrize("name", ["packed two subgraphs", "packed float16"])
def test_packed_operators_without_their_tensors(name, which):
    model = flatbuffer.read(seeds()[name])
    for graph in model.subgraphs:
        for op in graph.operators:
            if model.operatorCodes[op.opcodeIndex].customCode:
                setattr(op, which, np.full(len(getattr(op, which)), -1, np.int32))
    errors = read_all(flatbuffer.write(model))
    if which == "inputs":
        assert "without its tensors" in str(errors["_describe"])


class _Shared:
    """Tables that refer to what stands in the file once; takes the place of one of the bindings' objects."""

    def __init__(self, made):
        self._made, self._at = made, None

    def Pack(self, builder):  # noqa: N802 (the generated code's name)
        """Writes the table the first time."""
        if self._at is None:
            self._at = self._made.Pack(builder)
        return self._at


def _signatures():
    """Many subgraphs with many signatures, all the same."""
    model = small_model(sparse(4, 8))
    model.subgraphs, model.signatureDefs = (
        3000 * [_Shared(model.subgraphs[0])],
        3000 * [_Shared(model.signatureDefs[0])],
    )
    return model


def _tensors(change):
    model = conv()
    graph, tensor = model.subgraphs[0], schema.TensorT()
    tensor.name = "other"
    change(tensor)
    graph.tensors = [*graph.tensors, *3000 * [_Shared(tensor)]]
    return model


def _levels():
    parameters = schema.SparsityParametersT()
    parameters.dimMetadata = 1000 * [_Shared(schema.DimensionMetadataT())]
    return _tensors(lambda tensor: setattr(tensor, "sparsity", parameters))


def _buffers():
    model, shared = conv(), schema.BufferT()
    shared.data = np.zeros(50_000, np.uint8)
    model.buffers += 3000 * [_Shared(shared)]
    return model


def _operators():
    model, op = conv(), schema.OperatorT()
    op.inputs = op.outputs = np.zeros(0, np.int32)
    op.customOptions = np.zeros(50_000, np.uint8)
    model.subgraphs[0].operators = [*model.subgraphs[0].operators, *3000 * [_Shared(op)]]
    return model


_BOMBS = {
    "one long name for many tensors": lambda: _tensors(lambda t: setattr(t, "name", "a;" * 25_000)),
    "one long shape for many tensors": lambda: _tensors(lambda t: setattr(t, "shape", np.full(50_000, 7, np.int32))),
    "many levels for many tensors": _levels,
    "one constant for many buffers": _buffers,
    "the options of many operators": _operators,
    "many signatures for many subgraphs": _signatures,
}


@pytest.mark.parametrize("what", _BOMBS)
def test_small_files_that_would_become_large(what):
    builder = flatbuffers.Builder(1024)
    builder.Finish(_BOMBS[what]().Pack(builder), file_identifier=b"TFL3")
    data = bytes(builder.Output())
    assert len(data) < 300_000
    assert peak_bytes(data) <= allowed_bytes(data)
    if "signatures" not in what:
        with pytest.raises(ValueError, match=r"damaged bytes.* in \d+ bytes"):
            flatbuffer.read(data)


def test_a_long_shape_is_refused():
    """Its product would be a number of a million digits."""
    model = conv()
    model.subgraphs[0].tensors[1].shape = np.full(50_000, 2**31 - 1, np.int32)
    with pytest.raises(ValueError, match="a tensor of 50000 dimensions"):
        flatbuffer.read(flatbuffer.write(model))


def test_buffers_behind_the_flatbuffer_that_share_bytes():
    model = conv()

    class Outside:
        def Pack(self, builder):  # noqa: N802
            schema.BufferStart(builder)
            schema.BufferAddOffset(builder, 2)
            schema.BufferAddSize(builder, 3000)
            return schema.BufferEnd(builder)

    model.buffers += [Outside() for _ in range(1000)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ValueError, match="larger than the file"):
        flatbuffer.read(bytes(builder.Output()))
