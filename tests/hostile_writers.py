"""Kills processes in the middle of writes: ``hostile_writers.py <what> <path> <times>``.

Prints as JSON the digests of the two contents that the process writes in turn, and for each kill what was left at the
path, and whether a half-made file or folder was left beside it (the kill hit the write itself).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import numpy as np


def _bytes():
    from keras_prune_export import files  # noqa: PLC0415

    return lambda number, path: files.write_atomic(path, bytes([number]) * 3_000_000)


def _pack():
    from hostile_files import conv  # type: ignore[import-not-found]  # noqa: PLC0415

    import keras_prune  # noqa: PLC0415
    from keras_prune_export import flatbuffer  # noqa: PLC0415

    data = []
    for number in range(2):
        model = conv()
        model.buffers[2].data = np.full(32, number, np.uint8)  # the bias
        model.buffers.append(model.buffers[0].__class__())
        data.append(flatbuffer.write(model))
    return lambda number, path: keras_prune.pack_tflite(data[number], path)


def _models():
    import keras  # noqa: PLC0415

    import keras_prune  # noqa: PLC0415

    models = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        models.append(keras.Sequential([keras.Input((16,)), keras.layers.Dense(64), keras.layers.Dense(4)]))
        keras_prune.prune(models[-1], 0.8)
    return models


def _export_tflite():
    import keras_prune  # noqa: PLC0415

    models = _models()
    return lambda number, path: keras_prune.export_tflite(models[number], path)


def _export_saved_model():
    import keras_prune  # noqa: PLC0415

    models = _models()
    return lambda number, path: keras_prune.export_saved_model(models[number], path)


def _sensitivity():
    import keras_prune  # noqa: PLC0415

    models = _models()

    def write(number, path):
        """The scan of one model, after which the file is complete; then the other's begins anew."""
        path.unlink(missing_ok=True)
        keras_prune.sensitivity(models[number], lambda _: 0.5, sparsities=[0.1, 0.5, 0.9], resume=path)

    return write


WRITERS = {
    "write_atomic": _bytes,
    "pack_tflite": _pack,
    "export_tflite": _export_tflite,
    "export_saved_model": _export_saved_model,
    "sensitivity": _sensitivity,
}


def digest(path):
    """Of a file, or of all files of a folder; empty where there is nothing."""
    if not path.exists():
        return ""
    parts = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(path)).encode() + p.read_bytes() for p in parts)).hexdigest()


def _half_made(path):
    return [entry for entry in path.parent.iterdir() if entry.name.startswith(f".{path.name}.")]


def _child(what, path, ready):
    """Writes the two contents in turn, forever."""
    with contextlib.redirect_stdout(sys.stderr):
        write = WRITERS[what]()
        found = []
        for number in (0, 1):
            write(number, path)
            found.append(digest(path))
        os.write(ready, json.dumps(found).encode())
        os.close(ready)
        while True:
            write(0, path)
            write(1, path)


def _killed(what, path, rng):
    """Forks, waits until something is being written, and a little more, and kills."""
    read, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(what, path, ready)
    os.close(ready)
    with os.fdopen(read) as stream:
        contents = json.loads(stream.read())
    time.sleep(rng.uniform(0, 0.05))
    if rng.random() < 0.8:  # else at any moment
        while not _half_made(path):
            time.sleep(1e-4)
        time.sleep(rng.choice([0, 0, 1e-4, 1e-3, 4e-3]) * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    result = {"contents": contents, "left": digest(path), "half_made": len(_half_made(path))}
    for entry in _half_made(path):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return result


def main():
    """See the module."""
    what, path, times = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(what)
    if what in ("write_atomic", "pack_tflite"):
        WRITERS[what]()  # imports once for all; not TensorFlow, which does not outlive a fork
    print(json.dumps([_killed(what, path, rng) for _ in range(times)]))  # noqa: T201


if __name__ == "__main__":
    main()
