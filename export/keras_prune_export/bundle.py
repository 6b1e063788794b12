"""A folder that runs a packed model on a device: the model, the delegate for its processor, and a script."""

from __future__ import annotations

import os
import pathlib

from keras_prune_export import delegate_library, device_run, files, folders

_PARTS = {device_run.MODEL, device_run.LIBRARY, "run.py"}


def bundle(model: str | os.PathLike[str] | bytes, folder: str | os.PathLike[str], *, target: str) -> pathlib.Path:
    """Writes a folder with all that a device needs beside Python, NumPy and a TFLite runtime.

    It holds ``model.tflite``, ``libkeras_prune_delegate.so`` and ``run.py``, which prints accuracy and latency on the
    examples of an ``.npz`` file. An earlier bundle of that name is replaced; the folder is written whole or not at all.

    Args:
        model: path or bytes of a .tflite file.
        folder: a new name, or an earlier bundle.
        target: ``"linux-x86_64"`` or ``"linux-aarch64"`` (Raspberry Pi with a 64-bit system, and the like).

    Returns:
        The folder.

    Raises:
        ValueError: not a .tflite file, or an unknown target.
        FileNotFoundError: no such model, no folder to write in, or no delegate and no compiler for the target.
        FileExistsError: something else stands at ``folder``.
        RuntimeError: the delegate could not be built.

    Example:
        >>> bundle("packed.tflite", "pi", target="linux-aarch64")  # doctest: +SKIP
    """
    machine = delegate_library.target_named(target)
    data = files.read_tflite(model)
    path = _checked(folder)
    script = pathlib.Path(device_run.__file__).read_bytes()
    parts = {device_run.MODEL: data, device_run.LIBRARY: delegate_library.delegate_for(machine), "run.py": script}
    with folders.replaced(path) as new:
        for name, content in parts.items():
            (new / name).write_bytes(content)
    return path


def _checked(folder: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(os.path.realpath(folder))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder {path.parent} to exist; make it first")
    files.check_writable(path.parent)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path}: expected a folder's name, and a file stands there; choose another name")
    other = {entry.name for entry in path.iterdir()} - _PARTS if path.is_dir() else set()
    if other:
        raise FileExistsError(
            f"{path}: expected a new name or an earlier bundle to replace, and the folder holds "
            f"{', '.join(sorted(other)[:3])}; choose another name, or remove the folder yourself"
        )
    return path
