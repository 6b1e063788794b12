"""Files of every release so far are read, and compute what they did (docs/runtimes.md)."""

from __future__ import annotations

import json
import pathlib
import re

import matrix_run  # type: ignore[import-not-found]
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from packed_models import supported_isas  # type: ignore[import-not-found]

import keras_prune
from keras_prune import native, sparse_format, tensor_format
from keras_prune_export import flatbuffer

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = sorted((ROOT / "tests" / "golden").glob("release_*"))
CASES = [
    pytest.param(folder, case, id=f"{folder.name}-{case['name']}")
    for folder in FOLDERS
    for case in json.loads((folder / "cases.json").read_text())
]


def outcome(case, folder):
    how = {"make": litert.Interpreter, "load_delegate": litert.load_delegate}
    return matrix_run.run(case, folder, libraries=native.delegate_path().parent, **how)


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_the_file_computes_what_it_did(folder, case):
    for isa in supported_isas():
        assert outcome(case | {"options": {"isa": isa}}, folder) <= case["tolerance"]


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_python_reads_its_weights(folder, case):
    model = flatbuffer.read((folder / case["file"]).read_bytes())
    buffers = [np.array(b.data) for b in model.buffers if b.data is not None and bytes(b.data[:4]) == b"KPRI"]
    assert buffers
    for buffer in buffers:
        matrix = sparse_format.to_dense(buffer) if buffer[4] == 1 else tensor_format.decode(buffer)
        assert matrix.ndim == 2


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_folder_is_whole_and_small(folder):
    cases = json.loads((folder / "cases.json").read_text())
    named = {case[key] for case in cases for key in ("file", "expect")} | {"cases.json"}
    assert named == {path.name for path in folder.iterdir()}
    assert max(path.stat().st_size for path in folder.iterdir()) < 40_000
    operators = set()
    for case in cases:
        codes = flatbuffer.read((folder / case["file"]).read_bytes()).operatorCodes
        operators |= {flatbuffer.text(code.customCode) for code in codes if code.customCode}
    assert operators >= {"KerasPruneFullyConnected", "KerasPruneConv2D", "KerasPruneUnpack"}


def test_the_docs_name_every_folder_and_the_first_release_is_there():
    page = (ROOT / "docs" / "runtimes.md").read_text()
    assert [folder.name for folder in FOLDERS] == re.findall(r"`tests/golden/(release_\w+)`", page)
    assert "release_0_1_0" in page
    assert keras_prune.__version__ == "0.1.0" or len(FOLDERS) > 1
