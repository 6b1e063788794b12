"""`keras-prune bundle`: a folder that runs on a device with Python, NumPy and a runtime alone."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import pathlib
import platform
import re
import subprocess
import sys
import venv

import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import cli, delegate_library, device_run, flatbuffer, packing, runtime
from keras_prune_export.schemes import Schemes

HERE = f"linux-{platform.machine()}"
OTHER = next(name for name in delegate_library.TARGETS if name != HERE)
X = np.random.default_rng(0).normal(size=(70, 40)).astype(np.float32)
Y = (X @ sparse().T + np.arange(24)).argmax(axis=1)
Y[:7] = (Y[:7] + 1) % 24  # wrong ones
PARTS = ["libkeras_prune_delegate.so", "model.tflite", "run.py"]


def with_batch(size):
    """A model of one layer; -1: any batch."""
    made = small_model(sparse())
    for graph in made.subgraphs:
        for tensor in (graph.tensors[0], graph.tensors[-1]):
            tensor.shape = np.array([max(1, size), *tensor.shape[1:]], np.int32)
            tensor.shapeSignature = np.array([size, *tensor.shape[1:]], np.int32)
    return flatbuffer.write(made)


@pytest.fixture(scope="module")
def model(tmp_path_factory, packed_layers_compute):
    path = tmp_path_factory.mktemp("model") / "packed.tflite"
    path.write_bytes(packing.pack(with_batch(-1), Schemes(Codebook()))[0])
    return path


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "here"
    assert cli.main(["bundle", str(model), "--target", HERE, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=X, y=Y)
    return path


def test_the_bundle_is_complete(made, model):
    assert sorted(path.name for path in made.iterdir()) == PARTS
    assert (made / "model.tflite").read_bytes() == model.read_bytes()
    assert (made / "run.py").read_text() == pathlib.Path(device_run.__file__).read_text()
    assert (made / "libkeras_prune_delegate.so").read_bytes()[:4] == b"\x7fELF"


# On the device there is neither this package nor what it needs on a PC.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "keras_prune", "keras_prune_export", "absl", "h5py"):
            raise ImportError(f"{name} is not on the device")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(*arguments):
    command = [sys.executable, "-W", "error", "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_output(shown, *, batch=1):
    judged, timed = shown.splitlines()
    assert judged == "accuracy: 0.9000 (63 of 70)"
    assert re.fullmatch(rf"latency: \d+\.\d{{4}} ms \(10 % to 90 %: \S+ to \S+\), batch {batch}, \d+ calls", timed)


def test_it_runs_alone(made, examples, *, model, tmp_path):
    result = alone(made / "run.py", examples, "--outputs", tmp_path / "y.npy", "--batch=32", "--seconds=0")
    assert result.returncode == 0, result.stderr
    assert_output(result.stdout)
    interpreter = runtime.load_interpreter(model)
    interpreter.resize_tensor_input(0, X[:32].shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, X[:32])
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy")[:32], want)


def test_a_file_with_a_fixed_batch(made, examples, tmp_path):
    for name in PARTS:
        (tmp_path / name).write_bytes((made / name).read_bytes())
    (tmp_path / "model.tflite").write_bytes(with_batch(32))
    result = alone(tmp_path / "run.py", examples, "--seconds=0")
    assert result.returncode == 0, result.stderr
    assert_output(result.stdout, batch=32)


def test_the_script_runs_on_old_pythons():
    ast.parse(pathlib.Path(device_run.__file__).read_text(), feature_version=(3, 9))


def arrays(**changed):
    return {"x": X, "y": Y} | changed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "expected an .npz file with x and y .*No such file"),
        (b"no arrays", "expected an .npz file with x and y"),
        (b"", "expected an .npz file with x and y"),
        ({"x": X}, r"expected arrays x and y, got \['x'\]"),
        (arrays(y=Y[:5]), r"got x of shape \(70, 40\) and y, int64, of shape \(5,\)"),
        (arrays(y=Y.astype(float)), r"a whole number for each.* y, float64"),
        (arrays(x=X[:0], y=Y[:0]), "one example or more"),
        (arrays(x=X[:, :7]), r"x: expected examples of shape \(40,\), got \(7,\)"),
        (arrays(y=Y + 20), "y: expected classes from 0 to 23"),
        (arrays(x=np.array([{}] * 70)), "expected an .npz file"),
    ],
)
def test_wrong_data(made, tmp_path, *, data, message, monkeypatch, capsys):
    path = tmp_path / "data.npz"
    if isinstance(data, dict):
        np.savez(path, allow_pickle=True, **data)
    elif data is not None:
        path.write_bytes(data)
    monkeypatch.setattr(device_run, "__file__", str(made / "run.py"))
    assert device_run.main([str(path), "--seconds=0"]) == 1
    assert re.search(rf"^run\.py: .*{message}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            PARTS[0],
            b"\x7fELF" + bytes(60),
            rf"cannot be loaded on this machine, {platform.machine()} with .*--target",
        ),
        (PARTS[1], b"\x1c\0\0\0TFL3", "the runtime refused the model"),
    ],
)
def test_a_damaged_bundle(made, examples, tmp_path, *, name, content, message):
    for part in PARTS:
        (tmp_path / part).write_bytes((made / part).read_bytes())
    (tmp_path / name).write_bytes(content)
    result = alone(tmp_path / "run.py", examples)
    assert result.returncode == 1
    assert re.match(rf"run\.py: .*{message}", result.stderr)


def test_a_copy_that_was_broken_off(made, examples, tmp_path):
    """Linux's own loader ends with a bus error there."""
    for part in PARTS:
        (tmp_path / part).write_bytes((made / part).read_bytes())
    library = tmp_path / PARTS[0]
    whole = library.stat().st_size
    for size in (1000, whole // 2, whole - 1):
        os.truncate(library, whole)
        os.truncate(library, size)
        result = alone(tmp_path / "run.py", examples)
        assert result.returncode == 1
        message = rf"run\.py: .*: expected \d+ bytes by its head, got {size}; copy the bundle again"
        assert re.match(message, result.stderr)


def test_without_a_runtime(examples, monkeypatch, capsys):
    monkeypatch.setattr(device_run, "RUNTIMES", ("no_such_runtime",))
    assert device_run.main([str(examples)]) == 1
    assert "install one with `pip install ai-edge-litert numpy`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_name", "output", "message"),
    [
        ("absent.tflite", "new", "expected a .tflite file, and there is none"),
        ("other.txt", "new", "identifier b'TFL3'"),
        (None, "no/such/folder", r"expected the folder .* to exist; make it first"),
        (None, "other.txt", "a file stands there"),
        (None, "full", "the folder holds thesis.tex"),
    ],
)
def test_what_cannot_be_bundled(model, tmp_path, capsys, *, model_name, output, message):
    (tmp_path / "other.txt").write_text("no model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    source = str(model if model_name is None else tmp_path / model_name)
    assert cli.main(["bundle", source, "--target", HERE, "-o", str(tmp_path / output)]) == 1
    assert re.search(f"^keras-prune: .*{message}", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "other.txt", "thesis.tex"]


def test_an_unknown_target(model, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bundle", str(model), "--target", "amiga", "-o", "x"])
    assert stopped.value.code == 2
    assert "choose from 'linux-x86_64', 'linux-aarch64'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"target: expected one of linux-x86_64, linux-aarch64.*got 'amiga'"):
        delegate_library.target_named("amiga")


def test_a_bundle_is_replaced_whole_or_not_at_all(made, model, *, tmp_path, monkeypatch):
    folder = tmp_path / "pi"
    arguments = ["bundle", str(model), "--target", HERE, "-o", str(folder)]
    assert cli.main(arguments) == 0
    (folder / "run.py").write_text("an older one")

    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        assert cli.main(arguments) == 1
    assert (folder / "run.py").read_text() == "an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["pi"]
    assert cli.main(arguments) == 0
    assert (folder / "run.py").read_bytes() == (made / "run.py").read_bytes()


def test_a_delegate_that_the_package_carries_is_taken(tmp_path, monkeypatch):
    target = delegate_library.target_named(OTHER)
    head = b"\x7fELF" + bytes([target.elf[0]]) + bytes(13)
    library = tmp_path / "_native" / OTHER / "libkeras_prune_delegate.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(head + target.elf[1].to_bytes(2, "little") + bytes(44))
    monkeypatch.setattr(delegate_library, "_PACKAGE", tmp_path)
    assert delegate_library.delegate_for(target) == library.read_bytes()
    for wrong in (head + b"\x03\0" + bytes(44), b"\x7fELF", b""):
        library.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"expected a shared library for {OTHER}"):
            delegate_library.delegate_for(target)


def test_an_installation_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(delegate_library, "_PACKAGE", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{OTHER}: .*holds no delegate for it, and no sources"):
        delegate_library.delegate_for(delegate_library.target_named(OTHER))


@pytest.mark.parametrize(("missing", "advice"), [("cmake", "pip install cmake"), ("g++", "apt-get install g++-")])
def test_what_builds_it_is_named(missing, advice, monkeypatch):
    def which(name):
        return None if missing in name else f"/usr/bin/{name}"

    monkeypatch.setattr(delegate_library.shutil, "which", which)
    monkeypatch.setattr(delegate_library.sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match=re.escape(advice)):
        delegate_library.delegate_for(delegate_library.target_named(OTHER))


def test_a_failed_build_shows_what_the_tool_said(monkeypatch, tmp_path):
    (tmp_path / "custom_ops").mkdir()
    (tmp_path / "custom_ops" / "CMakeLists.txt").write_text("message(FATAL_ERROR no)")
    monkeypatch.setattr(delegate_library, "_PACKAGE", tmp_path / "keras_prune")
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho this is what is wrong >&2\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(delegate_library.shutil, "which", lambda name: str(tool))
    with pytest.raises(RuntimeError, match=r"failed with code 3:\nthis is what is wrong"):
        delegate_library.delegate_for(delegate_library.target_named(OTHER))


def test_the_command_loads_neither_tensorflow_nor_keras():
    code = "import sys, keras_prune_export.cli; print(sorted({'tensorflow', 'keras', 'numpy.f2py'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_clean_environment(made, examples, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for arguments in (["-m", "pip", "install", "--quiet", "ai-edge-litert", "numpy"], [made / "run.py", examples]):
        command = [str(python), *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert_output(result.stdout)


def test_the_command_is_installed():
    config = configparser.ConfigParser()
    config.read(pathlib.Path(__file__).resolve().parents[1] / "setup.cfg")
    name, _, function = config["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, attribute = function.partition(":")
    assert (name, getattr(importlib.import_module(module), attribute)) == ("keras-prune", cli.main)
