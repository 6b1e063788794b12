"""Reading, editing and writing .tflite files: nothing is lost, and damaged files give a ValueError."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import edits, flatbuffer, packing
from keras_prune_export.flatbuffer import schema
from keras_prune_export.schemes import Schemes
from keras_prune_export.transformations.tidy import shorten_names, tidy


def names(model):
    return [[flatbuffer.text(tensor.name) for tensor in graph.tensors] for graph in model.subgraphs]


def test_round_trip_is_the_identity():
    data = flatbuffer.write(small_model(sparse()))
    again = flatbuffer.write(flatbuffer.read(data))
    assert again == data
    assert data[4:8] == b"TFL3"


def test_round_trip_keeps_everything():
    model = flatbuffer.read(flatbuffer.write(small_model(sparse(), activation=3, keep_num_dims=True)))
    assert model.version == 3
    assert flatbuffer.text(model.description) == "hand-made"
    assert [flatbuffer.text(graph.name) for graph in model.subgraphs] == ["graph0", "graph1"]
    assert [flatbuffer.text(s.signatureKey) for s in model.signatureDefs] == ["signature0", "signature1"]
    assert [s.subgraphIndex for s in model.signatureDefs] == [0, 1]
    options = model.subgraphs[0].operators[0].builtinOptions
    assert (options.fusedActivationFunction, bool(options.keepNumDims)) == (3, True)
    weights = flatbuffer.constant(model, model.subgraphs[0].tensors[1])
    np.testing.assert_array_equal(weights, sparse())


def test_constants_are_aligned():
    data = flatbuffer.write(small_model(sparse()))
    for values in (sparse(), np.arange(24, dtype=np.float32)):
        assert data.index(values.astype(np.float32).tobytes()) % 64 == 0
    assert data.index(b"user's note") % 16 == 0


def test_drop_unused():
    model = small_model(sparse())
    edits.drop_unused(model)
    assert [code.builtinCode for code in model.operatorCodes] == [schema.BuiltinOperator.FULLY_CONNECTED]
    assert [op.opcodeIndex for graph in model.subgraphs for op in graph.operators] == [0, 0]
    sizes = [0 if b.data is None else len(b.data) for b in model.buffers]
    assert sizes == [0, 24 * 40 * 4, 24 * 4, len(b"user's note")]
    assert [t.buffer for t in model.subgraphs[1].tensors] == [0, 1, 2, 0]
    assert model.metadata[0].buffer == 3
    assert b"nobody refers" not in flatbuffer.write(model)


def test_tidy_keeps_public_names_and_user_metadata():
    model = small_model(sparse())
    note = schema.MetadataT()
    note.name, note.buffer = "CONVERSION_METADATA", 6
    model.metadata.append(note)
    tidy(model)
    assert shorten_names(model) == 2
    assert names(model) == [["x", "name", "bias", "y"]] * 2
    assert [flatbuffer.text(entry.name) for entry in model.metadata] == ["note"]
    assert model.subgraphs[0].tensors[0].quantization is None


def test_tidy_keeps_names_apart():
    model = small_model(sparse())
    tensors = model.subgraphs[0].tensors
    tensors[1].name, tensors[2].name = "a;b", "c;a;b"
    shorten_names(model)
    assert names(model)[0] == ["x", "b", "a", "y"]


def test_deprecated_operator_code_is_understood():
    model = small_model(sparse())
    model.operatorCodes[1].builtinCode = 0  # as in files written before the enum outgrew a byte
    assert flatbuffer.builtin_code(model, model.subgraphs[0].operators[0]) == schema.BuiltinOperator.FULLY_CONNECTED


def test_weights_behind_the_flatbuffer_are_read():
    model = small_model(sparse())
    values = sparse().astype(np.float32).tobytes()
    size = len(flatbuffer.write(model))

    def write_with_tail(offset):
        class Outside:
            def Pack(self, builder):  # noqa: N802
                schema.BufferStart(builder)
                schema.BufferAddOffset(builder, offset)
                schema.BufferAddSize(builder, len(values))
                return schema.BufferEnd(builder)

        import flatbuffers  # noqa: PLC0415

        model.buffers[3] = Outside()
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    head = write_with_tail(size)
    data = write_with_tail(len(head)) + values
    read = flatbuffer.read(data)
    np.testing.assert_array_equal(flatbuffer.constant(read, read.subgraphs[0].tensors[1]), sparse())
    with pytest.raises(ValueError, match="damaged"):
        flatbuffer.read(data[:-1])


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x00" * 4096, b"hello world, this is no model", b"PK\x03\x04" * 9])
def test_not_a_tflite_file(data):
    with pytest.raises(ValueError, match=r"expected a \.tflite file"):
        flatbuffer.read(data)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        flatbuffer.read(tmp_path / "none.tflite")


def test_wrong_kind():
    with pytest.raises(TypeError, match="path or the bytes"):
        flatbuffer.read(12)


def test_every_truncation_is_refused_or_read():
    data = flatbuffer.write(small_model(sparse(4, 8)))
    refused = 0
    for length in range(8, len(data), 3):
        try:
            flatbuffer.read(data[:length])
        except ValueError:
            refused += 1
    # The root table stands near the end: a file that lost more than its last padding cannot be read.
    assert refused > 0.9 * len(range(8, len(data), 3))


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_bytes_never_give_another_error(packed):
    data = flatbuffer.write(small_model(sparse(4, 8)))
    if packed:
        data, _ = packing.pack(data, Schemes(Codebook()))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        for position in rng.integers(8, len(data), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        try:
            packing.pack(bytes(damaged), Schemes(Codebook()))
        except ValueError:
            refused += 1
    assert 0 < refused < 600


def test_more_tables_than_bytes_are_refused_at_once():
    data = bytearray(flatbuffer.write(small_model(sparse(4, 8))))
    root = schema.Model.GetRootAs(bytes(data), 0)
    start = root._tab.Vector(root._tab.Offset(8)) - 4  # the length of `subgraphs`
    data[start : start + 4] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="tables in"):
        flatbuffer.read(bytes(data))


@pytest.mark.parametrize("where", ["buffer", "opcodeIndex", "inputs", "graph", "signature", "metadata"])
def test_dangling_references_are_refused(where):
    model = small_model(sparse())
    if where == "buffer":
        model.subgraphs[1].tensors[0].buffer = 99
    elif where == "opcodeIndex":
        model.subgraphs[1].operators[0].opcodeIndex = 2
    elif where == "inputs":
        model.subgraphs[1].operators[0].inputs = np.array([0, 4, -1], np.int32)
    elif where == "graph":
        model.subgraphs[1].outputs = np.array([-1], np.int32)
    elif where == "signature":
        model.signatureDefs[1].subgraphIndex = 2
    else:
        model.metadata[0].buffer = 8
    with pytest.raises(ValueError, match="damaged bytes"):
        flatbuffer.read(flatbuffer.write(model))


def test_constant_of_the_wrong_size_is_refused():
    model = small_model(sparse())
    model.subgraphs[0].tensors[1].shape = np.array([24, 41], np.int32)
    with pytest.raises(ValueError, match=r"\[24, 41\] has 3840 bytes"):
        flatbuffer.constant(model, model.subgraphs[0].tensors[1])
