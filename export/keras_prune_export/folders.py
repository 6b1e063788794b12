"""Whole folders out: a SavedModel is replaced whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from keras_prune_export import files

# What a SavedModel's folder may hold: https://www.tensorflow.org/guide/saved_model, and what other versions add.
_PARTS = frozenset(
    "saved_model.pb saved_model.pbtxt saved_model.cpb variables assets assets.extra debug fingerprint.pb "
    "keras_metadata.pb".split()
)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def check_saved_model_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Checks that a SavedModel can be written at ``path``, before the work whose result it will hold.

    Args:
        path: the folder to be written; an existing SavedModel may stand there.

    Returns:
        The path, links followed.

    Raises:
        TypeError: not a path.
        FileNotFoundError: the folder that it shall stand in does not exist.
        FileExistsError: a file stands there, or a folder that is no SavedModel.
        PermissionError: nothing can be written where it shall stand.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected the name of a folder as str or os.PathLike, got {path!r}; pass 'models/1'")
    target = pathlib.Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: expected the folder {target.parent} to exist; make it first")
    files.check_writable(target.parent)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: expected a folder's name, and a file stands there; choose another name")
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if names and (names - _PARTS or not any(name.startswith("saved_model.") for name in names)):
        other = ", ".join(sorted(names - _PARTS)[:3]) or "no saved_model.pb"
        raise FileExistsError(
            f"{target}: expected a new name or a SavedModel to replace, and the folder holds {other}; choose another "
            "name, or remove the folder yourself"
        )
    return target


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder beside ``path`` that takes its place in one step, if the block ends without an error.

    Args:
        path: checked by `check_saved_model_path`.

    Yields:
        The new folder, to be filled.

    Raises:
        OSError: a write failed; what stood at ``path`` is untouched.
    """
    new = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield new
        mask = os.umask(0)
        os.umask(mask)
        new.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o777 & ~mask)
        _sync(new)
        _take_place(new, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # what is there now: the old folder, or the half-made one


def _take_place(new: pathlib.Path, path: pathlib.Path) -> None:
    """Renames, or exchanges the two names, so that ``path`` is never missing; else the old one steps aside first."""
    if not path.exists() or not any(path.iterdir()):
        new.rename(path)
    elif not _exchange(new, path):
        aside = new.with_suffix(".old")
        path.rename(aside)
        try:
            new.rename(path)
        except OSError:
            aside.rename(path)
            raise
        aside.rename(new)


def _exchange(new: pathlib.Path, path: pathlib.Path) -> bool:
    """Linux' way to swap two names at once; False where the system or the file system has none."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0


def _sync(folder: pathlib.Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with (pathlib.Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(pathlib.Path(parent))


def _sync_folder(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
