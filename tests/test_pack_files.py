"""pack_tflite: what of a file is kept, and what it refuses."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from one_operator import MODELS, bytes_of, sparse_weights  # type: ignore[import-not-found]
from stock_files import assert_equal, run, weights_of  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import associated, flatbuffer, packing, runtime
from keras_prune_export.flatbuffer import schema
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.schemes import Schemes


def test_subgraphs_signatures_metadata_and_names_are_kept():
    data = flatbuffer.write(small_model(sparse(), second_weights=sparse_weights(24, 40)))
    result = flatbuffer.read(keras_prune.pack_tflite(data))
    assert [flatbuffer.text(s.signatureKey) for s in result.signatureDefs] == ["signature0", "signature1"]
    for number, graph in enumerate(result.subgraphs):
        names = [flatbuffer.text(tensor.name) for tensor in graph.tensors]
        for index, name in [(graph.inputs[0], "x"), (graph.outputs[0], "y")]:
            assert names[index] == name
        entry = result.signatureDefs[number]
        assert (entry.inputs[0].tensorIndex, entry.outputs[0].tensorIndex) == (graph.inputs[0], graph.outputs[0])
    note = result.metadata[0]
    assert (flatbuffer.text(note.name), bytes(result.buffers[note.buffer].data)) == ("note", b"user's note")
    assert [layer.form for layer in packed_layers(result)] == ["compute", "expand"]
    runner = runtime.load_interpreter(keras_prune.pack_tflite(data)).get_signature_runner("signature1")
    x = np.ones((1, 40), np.float32)
    want = x @ sparse_weights(24, 40).T + np.arange(24)
    np.testing.assert_allclose(runner(x=x)["y"], want, rtol=1e-5, atol=1e-5)


def test_weights_shared_by_subgraphs_are_stored_once_and_expanded_in_each():
    data = flatbuffer.write(small_model(sparse_weights(24, 40)))
    result = keras_prune.pack_tflite(data)
    assert result.count(b"KPRI") == 1
    model = flatbuffer.read(result)
    for graph in model.subgraphs:
        (op,) = (op for op in graph.operators if flatbuffer.builtin_code(model, op) == schema.BuiltinOperator.CUSTOM)
        assert op is graph.operators[0]
    interpreter = runtime.load_interpreter(result)
    x = np.ones((1, 40), np.float32)
    answers = [interpreter.get_signature_runner(f"signature{number}")(x=x)["y"] for number in range(2)]
    np.testing.assert_array_equal(*answers)


def test_associated_files_are_kept():
    stream = io.BytesIO(bytes_of("CONV_2D"))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
        archive.writestr("extra/table.bin", bytes(1000), compress_type=zipfile.ZIP_DEFLATED)
        archive.comment = b"appended"
    data = stream.getvalue()
    result = keras_prune.pack_tflite(data)
    assert len(result) < len(data) - 1000
    with zipfile.ZipFile(io.BytesIO(result)) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt") == b"cat\ndog\n"
        assert archive.read("extra/table.bin") == bytes(1000)
        assert archive.comment == b"appended"
        first = archive.infolist()[0].header_offset
    assert result[first : first + 4] == b"PK\x03\x04"  # offsets count from the file's start, as C++ readers take them
    assert_equal(run(result), run(data))


def test_damaged_archives_are_refused():
    stream = io.BytesIO(bytes_of("CONV_2D"))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    data, problems = stream.getvalue(), []
    start = data.index(b"PK\x03\x04")
    for position in range(start, len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                packed, _ = associated.archive(bytes(damaged))
                associated.append(b"shorter", packed, start)
            except ValueError as error:
                problems.append(str(error))
    assert len(problems) > 100
    assert all("appended file" in problem for problem in problems)


def test_from_path_to_path(tmp_path):
    (tmp_path / "a.tflite").write_bytes(bytes_of("CONV_2D"))
    result = keras_prune.pack_tflite(tmp_path / "a.tflite", tmp_path / "b.tflite")
    assert (tmp_path / "b.tflite").read_bytes() == result == keras_prune.pack_tflite(bytes_of("CONV_2D"))


def test_a_file_that_gains_nothing_stays():
    rng = np.random.default_rng(0)
    model = MODELS["GATHER"]()
    model.buffers[1].data = rng.integers(1, 256, 3200).astype(np.uint8)  # noise
    data = flatbuffer.write(model)
    assert keras_prune.pack_tflite(data) == flatbuffer.write(packing.load(data, "test"))
    layer = packing.pack(data, Schemes("lossless"))[1][0]
    assert layer.form == "stock"
    assert layer.reason.startswith("packed it would need ")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"weights": Codebook}, TypeError, r"pack_tflite(.|\n)*Codebook\(\)"),
        ({"weights": "exact"}, ValueError, "pack_tflite(.|\n)*'exact'"),
        ({"min_sparsity": 2}, ValueError, "pack_tflite: expected min_sparsity from 0 to 1"),
        ({"activations": "int16"}, ValueError, r"pack_tflite: expected activations to be one of \('float32', 'int8'\)"),
        (
            {"activations": "int8"},
            ValueError,
            r"layer that computes (.|\n)*constant1(.|\n)*expanded at load(.|\n)*leave",
        ),
        ({"representative_data": [[0]]}, ValueError, "pack_tflite: expected representative_data only with"),
        ({"path": "/no/such/folder/model.tflite"}, FileNotFoundError, "/no/such/folder to exist"),
        ({"weights": {"other": "lossless"}}, ValueError, "pack_tflite(.|\n)*'other'(.|\n)*constant1"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        keras_prune.pack_tflite(bytes_of("CONV_2D"), **arguments)


def test_a_packed_file_is_refused():
    for data in (bytes_of("CONV_2D"), flatbuffer.write(small_model(sparse()))):
        with pytest.raises(ValueError, match="pack_tflite: expected a file that is not packed yet"):
            keras_prune.pack_tflite(keras_prune.pack_tflite(data))


def test_layers_by_name():
    model = small_model(sparse_weights(24, 40), second_weights=sparse_weights(24, 40, seed=1))
    for number, graph in enumerate(model.subgraphs):
        graph.tensors[1].name = f"model/relu;model/dense{number}/kernel"
    weights = {"dense0": Codebook(bits=2), "dense.*": "float16"}
    result = weights_of(keras_prune.pack_tflite(flatbuffer.write(model), weights=weights))
    first, second = (np.unique(values[values != 0]) for values in result.values() if values.ndim == 2)
    assert len(first) == 3
    np.testing.assert_array_equal(second, second.astype(np.float16))
