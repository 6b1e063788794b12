"""The built wheel, in an empty environment, outside the checkout: what a user gets from `pip install`."""

from __future__ import annotations

import configparser
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
import setuptools

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("keras_prune", "keras_prune.*")  # beside them are build/ and others

SCRIPT = """
import pathlib, sys
import keras, numpy as np
import keras_prune, keras_prune_export
for module in (keras_prune, keras_prune_export):
    assert sys.argv[1] in module.__file__, module.__file__
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)])
keras_prune.prune(model, 0.8)
path = pathlib.Path("packed.tflite")
data = keras_prune.export_tflite(model, path)
assert path.read_bytes() == data
interpreter = keras_prune.load_interpreter(path)
x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
interpreter.invoke()
got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
want = keras_prune.quantize(model, keras_prune.Codebook()).predict(x, verbose=0)
np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
kernel = np.array(model.layers[0].kernel)
packed = keras_prune.ops.pack_weights(kernel, weights=keras_prune.Codebook(bits=8))
y = keras_prune.ops.relative_index_matmul(x, packed)
assert y.shape == (1, 32)
print("wheel works")
"""


def run(*command: object, cwd: pathlib.Path) -> str:
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_setup_cfg_names_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = setuptools.find_packages(ROOT, include=PACKAGES) + setuptools.find_packages(ROOT / "export")
    assert sorted(config["options"]["packages"].split()) == sorted(found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that nothing an earlier build left in the checkout gets in
    ignored = shutil.ignore_patterns(".*", "build", "out", "_native", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow  # as all that needs a wheel: the native libraries are compiled again; .ci/run has them
def test_wheel_has_the_libraries_and_a_platform_tag(wheel):
    platform = sysconfig.get_platform().replace("-", "_")
    assert wheel.name.split("-", 2)[2] == f"py3-none-{platform}.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("libkeras_prune_delegate.so", "libkeras_prune_tf_op.so"):
        assert f"keras_prune/_native/{name}" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"keras_prune", "keras_prune_export"}
    assert {"keras_prune/py.typed", "keras_prune_export/py.typed", "keras_prune_export/kernel_costs.json"} <= names


@pytest.mark.slow
def test_wheel_has_every_module(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    roots = {"keras_prune": ROOT, "keras_prune_export": ROOT / "export"}
    assert names == {
        path.relative_to(root).as_posix() for package, root in roots.items() for path in (root / package).rglob("*.py")
    }


@pytest.mark.slow
def test_wheel_exports_and_infers_outside_the_checkout(wheel, tmp_path):
    env = tmp_path / "env"
    venv.create(env, with_pip=True)
    python = env / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    work = tmp_path / "elsewhere"
    work.mkdir()
    assert "wheel works" in run(python, "-I", "-c", SCRIPT, str(env), cwd=work)
