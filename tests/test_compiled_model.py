"""LiteRT's CompiledModel with our delegate as an accelerator, through the C interface."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from pruned_models import conv_model as conv_network  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]
from unpack_models import conv_model, random_weights  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import compiled_model, flatbuffer, packing, runtime
from keras_prune_export.compiled_model import CompiledModel
from keras_prune_export.schemes import Schemes

TOKENS = pathlib.Path(__file__).parent / "golden" / "release_0_1_0" / "tokens.tflite"


@pytest.fixture(scope="module")
def packed(packed_layers_compute, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "packed.tflite"
    path.write_bytes(packing.pack(flatbuffer.write(small_model(sparse())), Schemes(Codebook()))[0])
    assert b"KerasPruneFullyConnected" in path.read_bytes()
    return path


def test_any_batch(packed):
    with CompiledModel(packed) as model:
        assert (model.input_names, model.output_names) == (["x"], ["y"])
        for batch in (1, 5, 17, 1):
            x = np.random.default_rng(batch).normal(size=(batch, 40)).astype(np.float32)
            y = model.run({"x": x})["y"]
            np.testing.assert_allclose(y, x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)


def test_two_outputs_behind_a_flattened_image(tmp_path):
    """LiteRT's layouts of these outputs have the file's batch, or that of the call before."""
    path = tmp_path / "model.tflite"
    keras_prune.export_tflite(conv_network(), path)
    interpreter = runtime.load_interpreter(path)
    with CompiledModel(path) as model:
        for batch in (1, 5, 3):
            x = np.random.default_rng(batch).random((batch, 12, 12, 2), np.float32)
            got = model.run(dict(zip(model.input_names, [x], strict=True)))
            want = interpreter.get_signature_runner()(**dict(zip(model.input_names, [x], strict=True)))
            assert got.keys() == want.keys() == {"first", "second"}
            for name, values in want.items():
                np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5)


def test_several_models_and_freeing_them(packed):
    x = np.ones((1, 40), np.float32)
    models = [CompiledModel(packed) for _ in range(3)]
    results = [model.run({"x": x})["y"] for model in models]
    models[1].close()
    np.testing.assert_array_equal(models[0].run({"x": x})["y"], results[2])
    for model in models:
        model.close()  # once more does no harm


def test_expanded_weights(tmp_path):
    weights, bias = random_weights((4, 3, 3, 8)), random_weights((4,))
    values = []
    for packed in (True, False):
        path = tmp_path / f"{packed}.tflite"
        path.write_bytes(conv_model(weights, bias, packed=packed))
        with CompiledModel(path) as model:
            x = np.random.default_rng(1).normal(size=(1, 6, 6, 8)).astype(np.float32)
            values.append(model.run({model.input_names[0]: x})[model.output_names[0]])
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def test_several_inputs_and_outputs_have_their_names():
    rng = np.random.default_rng(0)
    inputs = {"extra": rng.normal(size=(1, 6, 16)).astype(np.float32), "words": rng.integers(0, 50, (1, 6), np.int32)}
    with CompiledModel(TOKENS) as model:
        got = model.run(inputs)
    want = runtime.load_interpreter(TOKENS).get_signature_runner()(**inputs)
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5)


def test_a_missing_input_and_a_wrong_size(packed):
    with CompiledModel(packed) as model:
        with pytest.raises(KeyError, match="'x'"):
            model.run({"y": np.zeros((1, 40), np.float32)})
        with pytest.raises(ValueError, match="failed with status"):
            model.run({"x": np.zeros((1, 41), np.float32)})


def test_a_damaged_file_is_refused_with_the_reason(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[data.index(b"KPRI") + 40] ^= 1
    path = tmp_path / "damaged.tflite"
    path.write_bytes(bytes(data))
    script = "import sys; from keras_prune_export.compiled_model import CompiledModel\n"
    script += "import numpy as np; CompiledModel(sys.argv[1]).run({'x': np.zeros((1, 40), np.float32)})"
    command = [sys.executable, "-c", script, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "checksum does not match (corrupt); export the model again" in result.stderr
    assert "ValueError: CompiledModel: LiteRt" in result.stderr


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(400)])
def test_what_is_no_model(content, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="LiteRtCreateModelFromFile failed"):
        CompiledModel(path)
    with pytest.raises(FileNotFoundError, match=r"expected a \.tflite file at"):
        CompiledModel(tmp_path / "none.tflite")


def test_older_versions_are_refused(packed, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.5")
    with pytest.raises(ImportError, match=r"expected ai-edge-litert 2\.1\.6 or newer, got 2\.1\.5"):
        compiled_model.library_path()
