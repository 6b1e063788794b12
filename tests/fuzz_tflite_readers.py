"""Coverage-guided fuzzing of the Python readers of .tflite: ``fuzz_tflite_readers.py <corpus> [libFuzzer's options]``.

A reader gives a result or a ValueError; anything else is a finding, and so are a hang and memory beyond the limit. The
corpus begins with the files of `hostile_files`, the golden buffers, and the tables of published files where they are.
Needs atheris: ``pip install 'keras-prune[fuzz]'``.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys

import atheris

with atheris.instrument_imports(include=["keras_prune", "keras_prune_export", "flatbuffers"]):
    import hostile_files  # type: ignore[import-not-found]

    from keras_prune import sparse_format, tensor_format
    from keras_prune_export import associated, flatbuffer

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
PUBLISHED = pathlib.Path(__file__).resolve().parents[1].parent / "shared" / "data" / "models"
_MOST_WEIGHTS = 1 << 22  # what a file declares may take memory and time; that is no finding


def read(data: bytes) -> None:
    """One input: a .tflite file, an archive behind one, or a packed buffer."""
    if data[:4] == sparse_format.MAGIC:
        reader = tensor_format.check if data[4:5] == b"\2" else sparse_format.check
        _refused(reader, data)
    elif data[4:8] != b"TFL3":
        _refused(associated.archive, data)
    elif hostile_files.declared_weights(data) <= _MOST_WEIGHTS:
        hostile_files.read_all(data)


def _refused(reader, data):
    with contextlib.suppress(ValueError):
        reader(data)


def write_seeds(corpus: pathlib.Path) -> None:
    """The inputs to begin with."""
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in hostile_files.seeds().items():
        (corpus / name.replace(" ", "_")).write_bytes(data)
    for path in GOLDEN.glob("*.packed"):
        (corpus / path.name).write_bytes(path.read_bytes())
    for path in PUBLISHED.glob("*.tflite"):
        (corpus / path.name).write_bytes(_tables(path))


def _tables(path: pathlib.Path) -> bytes:
    """A file without most bytes of its constants: what is left to be damaged is what readers walk through."""
    model = flatbuffer.read(path)
    for buffer in model.buffers:
        buffer.data = None if buffer.data is None else buffer.data[:64]
    return flatbuffer.write(model)


def main() -> None:
    """See the module."""
    logging.disable(logging.WARNING)
    write_seeds(pathlib.Path(sys.argv[1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
