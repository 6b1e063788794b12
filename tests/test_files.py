"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keras_prune_export import files


def test_write_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    path.chmod(0o640)
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["model.tflite"]  # noqa: PTH208


def test_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    files.write_atomic(tmp_path / "model.tflite", b"new")
    assert (tmp_path / "model.tflite").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_write_through_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.tflite"]


def test_data_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"  # noqa: PTH112
        order.append((kind, os.fstat(handle).st_size if kind == "file" else 0))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    files.write_atomic(tmp_path / "model.tflite", b"new")
    assert order == [("file", 3), "rename", ("folder", 0)]


def test_killed_write_leaves_one_file_whole(tmp_path):
    """The writer is killed at the worst moments: before the temporary file is renamed, and just after."""
    path = tmp_path / "model.tflite"
    script = """
import os, sys
from keras_prune_export import files
real = os.replace
def replace(*arguments):
    if sys.argv[2] == "after":
        real(*arguments)
    os.kill(os.getpid(), 9)
os.replace = replace
files.write_atomic(sys.argv[1], b"new" * 1000)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for moment, content in [("before", b"old"), ("after", b"new" * 1000)]:
        path.write_bytes(b"old")
        result = subprocess.run([sys.executable, "-c", script, path, moment], env=environment, check=False)
        assert result.returncode == -9
        assert path.read_bytes() == content
