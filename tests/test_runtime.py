"""load_interpreter: the ordinary interpreter, with our delegate, without TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune import native
from keras_prune.quantization import Codebook
from keras_prune_export import flatbuffer, packing, runtime
from keras_prune_export.schemes import Schemes


@pytest.fixture(scope="module")
def stock():
    return flatbuffer.write(small_model(sparse()))


@pytest.fixture(scope="module")
def packed(stock, packed_layers_compute):
    return packing.pack(stock, Schemes(Codebook()))[0]


def infer(interpreter, x):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "str", "path"])
@pytest.mark.parametrize("packing", ["stock", "packed"])
def test_paths_and_bytes(packing, kind, *, request, tmp_path):
    data = request.getfixturevalue(packing)
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    source = {"bytes": data, "bytearray": bytearray(data), "str": str(path), "path": path}[kind]
    x = np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)
    interpreter = runtime.load_interpreter(source, num_threads=2)
    np.testing.assert_allclose(infer(interpreter, x), x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)
    interpreter.allocate_tensors()
    np.testing.assert_allclose(infer(interpreter, -x), -x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)


def test_resizing_the_batch(packed):
    interpreter = runtime.load_interpreter(packed)
    for batch in (5, 1, 17):
        interpreter.resize_tensor_input(0, [batch, 40])
        interpreter.allocate_tensors()
        x = np.random.default_rng(batch).normal(size=(batch, 40)).astype(np.float32)
        np.testing.assert_allclose(infer(interpreter, x), x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)


def test_several_interpreters_of_one_file(packed):
    interpreters = [runtime.load_interpreter(packed) for _ in range(3)]
    x = np.ones((1, 40), np.float32)
    results = [infer(interpreter, x) for interpreter in interpreters]
    del interpreters[1]
    np.testing.assert_array_equal(results[0], infer(interpreters[1], x))


def test_without_the_delegate_the_runtime_says_so(packed):
    interpreter = runtime.runtime_module().Interpreter(model_content=packed)
    with pytest.raises(RuntimeError, match="KerasPruneFullyConnected"):
        interpreter.allocate_tensors()


def test_an_operator_of_a_later_release(packed):
    later = packed.replace(b"KerasPruneFullyConnected", b"KerasPruneFullyAdaptive!")
    with pytest.raises(ValueError, match="got the operator KerasPruneFullyAdaptive!; install a newer keras_prune"):
        runtime.load_interpreter(later)


def test_damaged_packed_weights_are_refused(packed):
    data = bytearray(packed)
    data[data.index(b"KPRI") + 40] ^= 1  # in the codebook: only the checksum can tell
    with pytest.raises(ValueError, match="the runtime refused the model"):
        runtime.load_interpreter(bytes(data))


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("no_such_file.tflite", FileNotFoundError, "there is none"),
        (b"PK\x03\x04 a zip file", ValueError, r"expected a \.tflite file"),
        (12, TypeError, "path or the bytes"),
        (b"\x00\x00\x00\x80TFL3" + bytes(64), ValueError, "refused the model"),
    ],
)
def test_what_cannot_be_loaded(source, error, match):
    with pytest.raises(error, match=match):
        runtime.load_interpreter(source)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, None, True, np.True_, "2"])
def test_wrong_threads(stock, num_threads):
    with pytest.raises(ValueError, match="num_threads"):
        runtime.load_interpreter(stock, num_threads=num_threads)


def test_delegate_that_was_not_built(stock, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="keras_prune delegate: expected the native library"):
        runtime.load_interpreter(stock)


def test_a_delegate_of_another_architecture(stock, monkeypatch, tmp_path):
    library = bytearray(native.delegate_path().read_bytes())
    library[18] ^= 62 ^ 183  # ELF's machine: x86-64 and AArch64
    (tmp_path / native.delegate_path().name).write_bytes(bytes(library))
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    with pytest.raises(OSError, match=r"the delegate .* cannot be loaded .*; install keras_prune for this platform"):
        runtime.load_interpreter(stock)


def test_no_runtime(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(runtime.importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        runtime.runtime_module()


def test_the_first_runtime_that_imports_is_used(monkeypatch):
    asked = []
    fake = type("module", (), {"lite": "tf.lite"})

    def only_tensorflow(name):
        asked.append(name)
        if name != "tensorflow":
            raise ImportError(name)
        return fake

    monkeypatch.setattr(runtime.importlib, "import_module", only_tensorflow)
    assert runtime.runtime_module() == "tf.lite"
    assert asked == ["ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow"]


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "flatbuffers", "h5py", "absl"):
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Refuse())
import numpy as np
import keras_prune_export
interpreter = keras_prune_export.load_interpreter(sys.argv[1])
interpreter.set_tensor(0, np.ones((1, 40), np.float32))
interpreter.invoke()
print(float(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).sum()))
"""


def test_the_device_needs_neither_tensorflow_nor_keras(packed, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(packed)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(sparse().sum() + np.arange(24).sum(), rel=1e-6)
