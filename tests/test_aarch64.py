"""The same packed files on an emulated 64-bit ARM Linux, with the runtimes' own wheels (slow; `make test-aarch64`).

The bytes and the expected outputs are made here; the delegate is the one that `keras-prune bundle` builds and ships.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import emulated_arm  # type: ignore[import-not-found]
import numpy as np
import pytest
from pruned_models import conv_model, dense_model  # type: ignore[import-not-found]

import keras_prune
from keras_prune_export import cli, delegate_library, runtime

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(emulated_arm.missing()), reason=emulated_arm.missing())]
TESTS = pathlib.Path(__file__).resolve().parent
ROWS = 9  # a batch of tiles, and one row more
ISAS = ("reference", "scalar", "neon", "neondot")
KINDS = {
    "float32": {},
    "int8": {"activations": "int8"},
    "int8_static": {"activations": "int8", "representative_data": 0},
}
MODELS = {"lenet": dense_model, "conv": conv_model}
# What an output may differ by from x86's, relative to the largest where that is above 1. Float sums are added in
# another order. Integer sums are equal: with nothing but our operators between input and output, so are the outputs.
# Between the convolutional model's packed operators are the runtime's own, whose float results differ in their last
# bit; that may move a value to the next of 255 steps.
TOLERANCES = {("lenet", "float32"): 1e-5, ("lenet", "int8"): 0.0, ("lenet", "int8_static"): 0.0}
TOLERANCES |= {("conv", "float32"): 1e-5, ("conv", "int8"): 1 / 255, ("conv", "int8_static"): 1 / 255}


def inputs_of(model):
    return np.random.default_rng(3).random((ROWS, *model.inputs[0].shape[1:]), np.float32)


def outputs_here(path, x):
    """This machine's: all outputs in the file's order."""
    interpreter = runtime.load_interpreter(path)
    details = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(details["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def files_and_values(folder, name, kind):
    model = MODELS[name]()
    x = inputs_of(model)
    options = KINDS[kind] | ({"representative_data": x} if "representative_data" in KINDS[kind] else {})
    path = folder / f"{name}_{kind}.tflite"
    keras_prune.export_tflite(model, path, **options)
    outputs = outputs_here(path, x)
    np.savez(path.with_suffix(".npz"), x0=x, **{f"y{k}": y for k, y in enumerate(outputs)})
    return path.name


def errors(folder):
    """Cases that must end with a message."""
    good = (folder / "lenet_float32.tflite").read_bytes()
    damaged = bytearray(good)
    damaged[damaged.index(b"KPRI") + 40] ^= 1
    (folder / "damaged.tflite").write_bytes(damaged)
    (folder / "cut.tflite").write_bytes(good[: len(good) // 2])
    (folder / "no_library.so").write_bytes(b"\x7fELF" + bytes(60))
    file = {"file": "lenet_float32.tflite"}
    return [
        {"name": "no delegate", **file, "delegate": False, "error": "KerasPruneFullyConnected"},
        {"name": "damaged", "file": "damaged.tflite", "error": "checksum"},
        {"name": "cut", "file": "cut.tflite", "error": "not a valid Flatbuffer"},
        {
            "name": "x86's instructions",
            **file,
            "options": {"isa": "avx2"},
            "error": "supported by this CPU, got 'avx2'",
        },
        {"name": "no library", **file, "library": "no_library.so", "error": "no_library.so"},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, packed_layers_compute):
    folder = tmp_path_factory.mktemp("cases")
    cases = []
    for (name, kind), tolerance in TOLERANCES.items():
        file = files_and_values(folder, name, kind)
        case = {"file": file, "expect": file.replace(".tflite", ".npz"), "tolerance": tolerance}
        cases += [{"name": f"{name} {kind} {isa}", "options": {"isa": isa}, **case} for isa in ISAS]
        cases.append({"name": f"{name} {kind}", **case})
    (folder / "cases.json").write_text(json.dumps(cases + errors(folder)))
    delegate = delegate_library.delegate_for(delegate_library.target_named("linux-aarch64"))
    (folder / "libkeras_prune_delegate.so").write_bytes(delegate)
    return folder


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", list(emulated_arm.RUNTIMES))
def test_every_model_batch_kernel_and_error(name, folder):
    result = run(emulated_arm.python(name, TESTS / "matrix_run.py", name, folder, folder))
    assert result.returncode == 0, result.stdout + result.stderr
    (emulated_arm.FOLDER / f"{name}.json").write_text(result.stdout)  # what docs/devices.md shows
    found = json.loads(result.stdout)["results"]
    if name == "tflite-runtime":  # 2.14 does not check a file's bounds: it crashes on half a file, packed or not
        found["cut"]["ok"] = True
    assert len(found) == len(json.loads((folder / "cases.json").read_text())) == 35
    assert {case: values for case, values in found.items() if not values["ok"]} == {}


@pytest.mark.parametrize("name", list(emulated_arm.RUNTIMES))
def test_the_bundle(name, folder, tmp_path):
    model = folder / "lenet_float32.tflite"
    with np.load(model.with_suffix(".npz")) as values:
        x, y = values["x0"], values["y0"].argmax(axis=1)
    y[0] = (y[0] + 1) % 10
    np.savez(tmp_path / "data.npz", x=x, y=y)
    assert cli.main(["bundle", str(model), "--target", "linux-aarch64", "-o", str(tmp_path / "pi")]) == 0
    # A Cortex-A72 has no dot-product instructions: another choice of kernels than that of "max".
    command = emulated_arm.python(
        name, tmp_path / "pi" / "run.py", tmp_path / "data.npz", "--seconds=0", cpu="cortex-a72"
    )
    result = run(command)
    assert result.returncode == 0, result.stderr
    assert re.match(r"accuracy: 0\.8889 \(8 of 9\)\nlatency: \d+\.\d+ ms ", result.stdout)


def test_the_runner(folder, tmp_path):
    """The C++ program, cross-built, on the wheel's libLiteRt.so."""
    build = delegate_library.TARGETS["linux-aarch64"].folder()
    emulated_arm.call(delegate_library.tool("cmake"), "--build", build, "--target", "keras_prune_run", cwd=tmp_path)
    litert = emulated_arm.packages_of("ai-edge-litert") / "ai_edge_litert" / "libLiteRt.so"
    for model, kind in TOLERANCES:
        file = folder / f"{model}_{kind}.tflite"
        with np.load(file.with_suffix(".npz")) as values:
            values["x0"].tofile(tmp_path / "x.bin")
            want = np.concatenate([values[f"y{k}"].ravel() for k in range(len(values.files) - 1)])
        parts = (litert, folder / "libkeras_prune_delegate.so", file, tmp_path / "x.bin", tmp_path / "y.bin", 1)
        result = run(emulated_arm.command(build / "keras_prune_run", *parts))
        assert result.returncode == 0, result.stderr
        error = np.abs(np.fromfile(tmp_path / "y.bin", np.float32) - want).max() / max(1, np.abs(want).max())
        assert error <= TOLERANCES[model, kind]


def test_a_bundle_for_another_processor_says_so(folder, tmp_path):
    model = folder / "lenet_float32.tflite"
    assert cli.main(["bundle", str(model), "--target", "linux-x86_64", "-o", str(tmp_path / "pc")]) == 0
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 784), np.float32), y=[0])
    result = run(emulated_arm.python("tflite-runtime", tmp_path / "pc" / "run.py", tmp_path / "data.npz"))
    assert result.returncode == 1
    assert re.match(
        r"run\.py: .* cannot be loaded on this machine, aarch64 with .*keras-prune bundle --target", result.stderr
    )


def test_the_oldest_glibc(folder):
    """Every glibc for this processor will do: 2.17 was the first."""
    shown = run(["readelf", "--wide", "--version-info", "--dynamic", folder / "libkeras_prune_delegate.so"]).stdout
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", shown)
    assert {(int(a), int(b)) for a, b in versions} == {(2, 17)}
    assert re.findall(r"Shared library: \[(.*)\]", shown) == ["libc.so.6"]
