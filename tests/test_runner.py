"""The C++ runner: packed files on the wheel's LiteRT, without Python."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from pruned_models import conv_model, dense_model  # type: ignore[import-not-found]

import keras_prune
from keras_prune import native
from keras_prune_export import compiled_model, runtime

SOURCE = pathlib.Path(__file__).resolve().parents[1] / "custom_ops" / "runner" / "runner.cc"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
FLAGS = "-std=c++17 -O1 -Wall -Wextra -Werror -fno-exceptions -fno-rtti".split()
ROWS = 5


@pytest.fixture(scope="module")
def litert():
    try:
        return compiled_model.library_path()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    if not shutil.which(COMPILER[0]):
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("runner") / "keras_prune_run"
    subprocess.run([*COMPILER, *FLAGS, str(SOURCE), "-ldl", "-o", str(path)], check=True)
    return path


@pytest.fixture(scope="module", params=[dense_model, conv_model])
def files(request, tmp_path_factory, packed_layers_compute):
    """A packed file, its input and its outputs in the interpreter."""
    folder = tmp_path_factory.mktemp("files")
    model = request.param()
    x = np.random.default_rng(3).random((ROWS, *model.inputs[0].shape[1:]), np.float32)
    keras_prune.export_tflite(model, folder / "model.tflite")
    x.tofile(folder / "x.bin")
    interpreter = runtime.load_interpreter(folder / "model.tflite")
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    outputs = [interpreter.get_tensor(details["index"]).ravel() for details in interpreter.get_output_details()]
    return folder, np.concatenate(outputs)


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


def test_it_computes_what_the_interpreter_does(runner, litert, *, files, tmp_path):
    folder, want = files
    parts = (folder / "model.tflite", folder / "x.bin", tmp_path / "y.bin", 3)
    result = run(runner, litert, native.delegate_path(), *parts)
    assert result.returncode == 0, result.stderr
    assert f"rows {ROWS}, " in result.stdout
    # CompiledModel's XNNPACK takes other operators than the interpreter's, and adds in another order.
    np.testing.assert_allclose(np.fromfile(tmp_path / "y.bin", np.float32), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (0, None, "cannot load a library"),
        (1, b"\x7fELF", "cannot load a library|LiteRtCreateCompiledModel|model.tflite"),
        (2, b"no model", "LiteRT refused"),
        (3, None, "cannot be read"),
        (3, b"", "expected whole rows of the model's input"),
        (3, b"123", "expected whole rows of the model's input"),
    ],
)
def test_what_it_refuses(runner, litert, *, files, tmp_path, place, content, message):
    folder, _ = files
    parts = [litert, native.delegate_path(), folder / "model.tflite", folder / "x.bin"]
    parts[place] = tmp_path / f"{place}.bin"
    if content is not None:
        parts[place].write_bytes(content)
    result = run(runner, *parts, tmp_path / "y.bin")
    assert result.returncode == 1
    assert "keras_prune_run: " in result.stderr
    assert any(part in result.stderr for part in message.split("|"))
    assert not (tmp_path / "y.bin").exists()


def test_how_it_is_called(runner):
    for arguments in ((), ("a", "b", "c", "d", "e", "0")):
        result = run(runner, *arguments)
        assert result.returncode == 2
        assert "usage: " in result.stderr
