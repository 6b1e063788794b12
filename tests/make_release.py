"""Writes the golden files of a release: packed files that every later release must read, and what they compute.

    python tests/make_release.py                         # tests/golden/release_<version>; refuses one that is there
    python tests/make_release.py --out build/matrix/now  # for the runtime matrix: the files of today

Expected outputs come from what the packed files stand for: the stock file with the same weights where all operators
are float32 (or integer ones of the runtime), else this library's reference kernels.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from unittest import mock

import matrix_run  # type: ignore[import-not-found]
import numpy as np
import release_models  # type: ignore[import-not-found]
from ai_edge_litert import interpreter as litert
from stock_files import as_stock  # type: ignore[import-not-found]

import keras_prune
from keras_prune import native
from keras_prune_export import kernel_costs

GOLDEN = pathlib.Path(__file__).parent / "golden"
WORDS = 50  # of the embedding


def folder_of(version):
    return GOLDEN / f"release_{version.replace('.', '_')}"


def inputs_of(interpreter, rows):
    """Random inputs of the file's shapes, one array for each."""
    rng = np.random.default_rng(20160215)
    result = []
    for detail in interpreter.get_input_details():
        shape = [rows, *detail["shape"][1:]] if rows else list(detail["shape"])
        is_float = detail["dtype"] == np.float32
        made = rng.uniform(-1, 1, shape) if is_float else rng.integers(0, WORDS, shape)
        result.append(made.astype(detail["dtype"]))
    return result


def outputs_of(interpreter, inputs):
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], x.shape)
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def reference(data):
    """An interpreter whose packed operators compute straight from the packed bytes."""
    delegate = litert.load_delegate(str(native.delegate_path()), {"isa": "reference"})
    return litert.Interpreter(model_content=data, experimental_delegates=[delegate])


def expected(kept):
    """Inputs, and what the stock file computes of them, or our reference kernels where none is the same."""
    inputs = inputs_of(reference(kept.data), kept.rows)
    outputs = outputs_of(reference(kept.data), inputs)
    if kept.by_reference:
        return inputs, outputs
    wanted = outputs_of(litert.Interpreter(model_content=as_stock(kept.data)), inputs)
    for got, want in zip(outputs, wanted, strict=True):
        assert matrix_run.difference(got, want) <= kept.tolerance
    return inputs, wanted


def write_one(folder, name, kept):
    """Writes a file and its values; returns its entry in cases.json."""
    try:
        inputs, outputs = expected(kept)
    except Exception as error:
        raise RuntimeError(f"golden file {name}") from error
    arrays = {f"x{k}": x for k, x in enumerate(inputs)} | {f"y{k}": y for k, y in enumerate(outputs)}
    (folder / f"{name}.tflite").write_bytes(kept.data)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    case = {"name": name, "file": f"{name}.tflite", "expect": f"{name}.npz", "tolerance": kept.tolerance}
    return case | {"about": kept.about} | ({} if kept.rows else {"batches": False})


def computes(works, *_):
    """What to compute on packed weights, in place of the measured costs."""
    return all(3 * work.kept <= work.rows * work.cols for work in works)


def write(folder):
    """Writes all files into a new folder."""
    folder.mkdir(parents=True)
    # Also layers of a few weights compute on packed ones, and in int8 where asked for, whichever form would be faster.
    with (
        mock.patch.object(kernel_costs, "packed_pays", computes),
        mock.patch.object(kernel_costs, "packed_form", lambda works, kind: kernel_costs.FORMS[kind][0]),
    ):
        files = release_models.every_file()
    cases = [write_one(folder, name, kept) for name, kept in sorted(files.items())]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=folder_of(keras_prune.__version__), help="a new folder")
    folder = parser.parse_args().out
    if folder.exists():
        parser.error(f"expected a folder that is not there, got {folder}: golden files of a release never change")
    write(folder)


if __name__ == "__main__":
    main()
