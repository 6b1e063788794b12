"""Runs files in one runtime and prints what came, as JSON. Needs NumPy and the runtime, nothing of the project.

    python matrix_run.py ai-edge-litert FOLDER LIBRARIES [CPU]

LIBRARIES is the folder with the delegate and the TensorFlow op, CPU the name of the emulated one. ``FOLDER/cases.json``
is a list of cases:

    {"name": ..., "file": ..., "delegate": true,              # a file and whether it runs with the delegate, or the op
     "options": {"isa": ...}, "library": ...,                 # the delegate's options; another file for it, or the op
     "kind": "op" or "saved_model",                           # only in TensorFlow; the file is a SavedModel's folder
             or "compiled_model",                             # only in LiteRT from 2.1.6 on; "old": true: only before
     "expect": "values.npz", "tolerance": 1e-5,               # inputs x0, x1, ... and outputs y0, y1, ...: or
     "error": "regular expression",                           # what the message must say, whatever the inputs give
     "variables": {"KERAS_PRUNE_ISA": ...},                   # of the environment
     "cpu": "Nehalem",                                        # only on this one
     "checks": true}                                          # only where the runtime checks the file's tables

Inputs have as many rows as the expected outputs; the first one, two and all of them are given to the model (the op
multiplies x0 by the packed bytes x1). The largest difference of an output, relative to the largest output where that is
above 1, must not exceed the tolerance. Each case has a process of its own, so that a crash is a result like any other.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
import traceback

import numpy as np

MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


def runtime(name):
    """A module with ``Interpreter``, and its ``load_delegate``."""
    if name in MODULES:
        module = importlib.import_module(MODULES[name])
        return module.Interpreter, module.load_delegate
    lite = importlib.import_module("tensorflow").lite
    return lite.Interpreter, lite.experimental.load_delegate


def batches(rows):
    return sorted({1, 2, rows} & set(range(1, rows + 1)))


def invoke(interpreter, inputs, rows):
    """The outputs of the first ``rows`` rows."""
    details = interpreter.get_input_details()
    for detail, x in zip(details, inputs, strict=True):
        if list(detail["shape"]) != [rows, *x.shape[1:]]:
            interpreter.resize_tensor_input(detail["index"], [rows, *x.shape[1:]])
    interpreter.allocate_tensors()
    interpreter.reset_all_variables()  # the states of recurrent operators
    for detail, x in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], x[:rows])
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def difference(got, want):
    """The largest one, relative to the largest output where that is above 1."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise AssertionError(f"expected {want.dtype} {want.shape}, got {got.dtype} {got.shape}")
    if got.tobytes() == want.tobytes():  # also bytes that are no numbers
        return 0.0
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not np.isfinite(got).all():
        raise AssertionError("an output is not finite")
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


def values_of(case, folder):
    """Inputs and expected outputs."""
    with np.load(folder / case["expect"]) as values:
        names = sorted(values.files, key=lambda name: (name[0], int(name[1:])))
        return [values[name] for name in names if name[0] == "x"], [values[name] for name in names if name[0] == "y"]


def run_tensorflow(case, folder, libraries):
    """Calls the op, or a SavedModel's endpoint; returns the largest difference."""
    tf = importlib.import_module("tensorflow")
    library = str(folder / case["library"] if "library" in case else libraries / "libkeras_prune_tf_op.so")
    inputs, wanted = values_of(case, folder)
    if case["kind"] == "op":
        got = [tf.load_op_library(library).keras_prune_relative_index_matmul(*inputs)]
    else:
        if case.get("delegate", True):
            tf.load_op_library(library)
        endpoint = tf.saved_model.load(str(folder / case["file"])).signatures["serving_default"]
        name = next(iter(endpoint.structured_input_signature[1]))
        got = list(endpoint(**{name: tf.constant(inputs[0])}).values())
    return max(difference(g.numpy(), w) for g, w in zip(got, wanted, strict=True))


def run_compiled(case, folder, libraries):
    """Runs one file in LiteRT's CompiledModel; returns the largest difference."""
    if not case.get("delegate", True):  # LiteRT's own class, which has no place for it
        own = importlib.import_module("ai_edge_litert.compiled_model").CompiledModel.from_file(
            str(folder / case["file"])
        )
        own.run_by_index(0, own.create_input_buffers(0), own.create_output_buffers(0))
        return 0.0
    sys.path.insert(0, str(folder))
    compiled_model = importlib.import_module("compiled_model")
    inputs, wanted = values_of(case, folder)
    delegate = folder / case["library"] if "library" in case else libraries / "libkeras_prune_delegate.so"
    with compiled_model.CompiledModel(folder / case["file"], delegate=delegate) as model:
        worst = 0.0
        for rows in batches(len(inputs[0])) if case.get("batches", True) else [len(inputs[0])]:
            got = model.run({name: x[:rows] for name, x in zip(model.input_names, inputs, strict=True)})
            want = [y[:rows] if case.get("batches", True) else y for y in wanted]
            worst = max(worst, *(difference(g, w) for g, w in zip(got.values(), want, strict=True)))
    return worst


def applies(case, name, cpu=""):
    """Whether a runtime has what a case needs."""
    kind = case.get("kind", "tflite")
    if case.get("cpu", cpu) != cpu:
        return False
    if kind == "compiled_model":
        return name == "ai-edge-litert" and (version(name) < (2, 1, 6)) == case.get("old", False)
    if case.get("checks"):
        return name != "tflite-runtime"
    return kind == "tflite" or name not in MODULES


def version(name):
    return tuple(int(part) for part in importlib.metadata.version(name).split(".")[:3])


def run(case, folder, *, make, load_delegate, libraries):
    """Runs one file; returns the largest difference."""
    if case.get("kind") == "compiled_model":
        return run_compiled(case, folder, libraries)
    if "kind" in case:
        return run_tensorflow(case, folder, libraries)
    delegates = []
    if case.get("delegate", True):
        library = folder / case["library"] if "library" in case else libraries / "libkeras_prune_delegate.so"
        delegates = [load_delegate(str(library), case.get("options"))]
    interpreter = make(model_path=str(folder / case["file"]), experimental_delegates=delegates, num_threads=1)
    if "expect" not in case:
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        interpreter.invoke()
        return 0.0
    inputs, outputs = values_of(case, folder)
    sizes = batches(len(inputs[0])) if case.get("batches", True) else [len(inputs[0])]
    worst = 0.0
    for rows in [*sizes, sizes[0]]:
        got = invoke(interpreter, inputs, rows)
        want = outputs if len(sizes) == 1 else [y[:rows] for y in outputs]
        if len(got) != len(want):
            raise AssertionError(f"expected {len(want)} outputs, got {len(got)}")
        worst = max(worst, *(difference(g, w) for g, w in zip(got, want, strict=True)))
    return worst


def judge(case, result):
    """Whether a result is what the case expects: ``ok`` is set."""
    if "error" in case:
        result["ok"] = result.get("message") is not None and re.search(case["error"], result["message"]) is not None
    else:
        result["ok"] = result.get("max_error") is not None and result["max_error"] <= case["tolerance"]
    return result


def attempt(case, folder, **how):
    """What came of one case, in this process."""
    os.environ.update(case.get("variables", {}))
    try:
        return {"max_error": run(case, folder, **how)}
    except AssertionError as error:
        return {"wrong": str(error)}
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # what the runtimes raise
        return {"message": f"{type(error).__name__}: {error}"}
    except Exception as error:
        if type(error).__module__.startswith("tensorflow."):  # its statuses
            return {"message": f"{type(error).__name__}: {error}"}
        return {"wrong": traceback.format_exc()}


def apart(case, folder, **how):
    """What came of one case, in a process of its own; what native code writes on stderr belongs to the message."""
    read, write = os.pipe()
    log = os.memfd_create("stderr")
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(log, 2)
        os.write(write, json.dumps(attempt(case, folder, **how)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    os.lseek(log, 0, os.SEEK_SET)
    with os.fdopen(log, "rb") as stream:
        errors = stream.read().decode(errors="replace")
    if status or not answer:
        return {"crash": os.waitstatus_to_exitcode(status), "stderr": errors[-2000:]}
    result = json.loads(answer)
    if "message" in result:
        result["message"] += "\n" + errors
    return result


def main(name, folder, *, libraries, cpu=""):
    start = time.monotonic()
    make, load_delegate = runtime(name)
    folder = pathlib.Path(folder)
    how = {"make": make, "load_delegate": load_delegate, "libraries": pathlib.Path(libraries)}
    results = {}
    for case in json.loads((folder / "cases.json").read_text()):
        if applies(case, name, cpu):
            results[case["name"]] = judge(case, apart(case, folder, **how))
    report = {"numpy": np.__version__, "python": sys.version.split()[0], "results": results}
    report["seconds"] = round(time.monotonic() - start, 1)
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:3], libraries=sys.argv[3], cpu=(*sys.argv[4:], "")[0])
