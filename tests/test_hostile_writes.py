"""Writes that are killed, that find the disk full, or the folder read-only: the old file or the new one, whole."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import hostile_writers  # type: ignore[import-not-found]
import pytest

from keras_prune_export import files, folders

TESTS = pathlib.Path(__file__).resolve().parent


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "TF_CPP_MIN_LOG_LEVEL": "2"}
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def killed(what, path, times):
    results = json.loads(run(TESTS / "hostile_writers.py", what, path, times).splitlines()[-1])
    assert len(results) == times
    return results


@pytest.mark.parametrize(("what", "times"), [("write_atomic", 20), ("pack_tflite", 10)])
def test_killed_at_random_moments(what, times, tmp_path):
    results = killed(what, tmp_path / "model.tflite", times)
    for result in results:
        assert result["left"] in result["contents"]
        assert len(set(result["contents"])) == 2
    if what == "write_atomic":
        assert sum(result["half_made"] for result in results) > 0  # some kills hit the write itself


@pytest.mark.slow
@pytest.mark.parametrize("what", ["export_tflite", "export_saved_model"])
def test_killed_exports(what, tmp_path):
    for result in killed(what, tmp_path / "model", 4):
        assert result["left"] in result["contents"]
        assert len(set(result["contents"])) == 2


@pytest.mark.slow
def test_a_killed_scan_goes_on(tmp_path):
    """Its file has another content after each measurement: always whole, and the next scan goes on from it."""
    path = tmp_path / "scan.json"
    killed("sensitivity", path, 4)
    if path.exists():  # it is removed in between
        content = json.loads(path.read_text())
        assert set(content) == {"settings", "points"}


_LIMITED = """
import pathlib, resource, sys
import hostile_writers
from keras_prune_export import files, serving_graph
def limited(write):
    def call(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        return write(*arguments)
    return call
write = hostile_writers.WRITERS[sys.argv[1]]()
path = pathlib.Path(sys.argv[2])
write(0, path)
# From here on; what TensorFlow writes for itself elsewhere before that is not meant.
files.write_atomic, serving_graph.write = limited(files.write_atomic), limited(serving_graph.write)
try:
    write(1, path)
except Exception as error:
    print(hostile_writers.digest(path), type(error).__name__, error)
else:
    print("written")
"""


def full_disk(what, path):
    """Writes one content, then another with no file over 500 bytes; says what became of the second."""
    left, kind, message = run("-c", _LIMITED, what, path).splitlines()[-1].split(" ", 2)
    assert left == hostile_writers.digest(path) != ""
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing is left over
    return kind, message


@pytest.mark.parametrize("what", ["write_atomic", "pack_tflite"])
def test_a_full_disk(what, tmp_path):
    kind, message = full_disk(what, tmp_path / "model.tflite")
    assert kind == "OSError"
    assert "model.tflite" in message
    assert "bytes could not be written (File too large); nothing changed there" in message


@pytest.mark.slow
@pytest.mark.parametrize("what", ["export_tflite", "export_saved_model"])
def test_exports_to_a_full_disk(what, tmp_path):
    _, message = full_disk(what, tmp_path / "model")
    assert "File too large" in message


_READ_ONLY = """
import os, pathlib, sys
from keras_prune_export import files, folders
if os.geteuid() == 0:
    os.seteuid(65534)  # permissions do not bind root
for check in (files.check_folder, folders.check_saved_model_path, lambda path: files.write_atomic(path, b"new")):
    try:
        check(pathlib.Path(sys.argv[1]) / "model")
    except PermissionError as error:
        print(error)
"""


def test_a_read_only_folder():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="keras_prune_"))
    try:
        folder.chmod(0o555)
        messages = run("-c", _READ_ONLY, folder).splitlines()
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert len(messages) == 3
    assert all("expected a folder in which files can be made" in message for message in messages)


def test_the_checks_pass_where_files_can_be_made(tmp_path):
    assert files.check_folder(tmp_path / "model") == tmp_path / "model"
    assert folders.check_saved_model_path(tmp_path / "model") == tmp_path / "model"
