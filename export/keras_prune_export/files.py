"""Whole files in, whole files out."""

from __future__ import annotations

import os
import pathlib
import tempfile


def check_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Checks that a file can be written at ``path``, before the work whose result it will hold.

    Args:
        path: the file to be written.

    Returns:
        The path.

    Raises:
        TypeError: not a path.
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: the path is a folder.
        PermissionError: nothing can be written in the folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected the name of a file as str or os.PathLike, got {path!r}; pass 'model.tflite'")
    target = pathlib.Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: expected the folder {target.parent} to exist; make it first")
    if target.is_dir():
        raise IsADirectoryError(f"{target}: expected the name of a file, got a folder; add a file name to it")
    check_writable(target.parent)
    return target


def check_writable(folder: pathlib.Path) -> None:
    """Raises PermissionError where no file can be made in a folder."""
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(
            f"{folder}: expected a folder in which files can be made, and this process may not; change its "
            "permissions, or choose another folder"
        )


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old file or the new one, whole.

    Args:
        path: the file; an existing one is replaced and its permissions are kept.
        data: the new content.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the write failed; the old file is untouched.
    """
    target = pathlib.Path(os.path.realpath(check_folder(path)))  # a link keeps pointing at its file
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), _mode(target))
            os.fsync(file.fileno())
        os.replace(name, target)  # noqa: PTH105
    except BaseException as error:
        pathlib.Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            what = f"{target}: {len(data)} bytes could not be written ({error.strerror or error})"
            raise OSError(
                error.errno, f"{what}; nothing changed there; free some space, or choose another folder"
            ) from error
        raise
    _sync_folder(target.parent)


def _mode(target: pathlib.Path) -> int:
    """The old file's permissions, else what `open` would have given a new one."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes the rename itself durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_tflite(source: str | os.PathLike[str] | bytes) -> bytes:
    """The bytes of a .tflite file.

    Args:
        source: a path, or the bytes themselves.

    Returns:
        The bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the bytes are not a .tflite file.
        TypeError: ``source`` is neither a path nor bytes.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), f"{len(source)} bytes"
    elif isinstance(source, str | os.PathLike):
        path = pathlib.Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a .tflite file, and there is none; check the path")
        data, name = path.read_bytes(), str(path)
    else:
        raise TypeError(f"expected the path or the bytes of a .tflite file, got {type(source).__name__}")
    if data[4:8] != b"TFL3":
        raise ValueError(
            f"{name}: expected a .tflite file (identifier b'TFL3' at byte 4), got {data[4:8]!r}; "
            "the file is damaged or of another kind"
        )
    return data
