"""One packed file with float32 and with int8 activations: the same weights, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_prune_export import files, flatbuffer
from keras_prune_export.text_table import text_table
from keras_prune_export.transformations.dense_int8 import has_dense_int8
from keras_prune_export.transformations.int8_activations import computing, options_of, set_activations

FLOAT32, BY_ROW, CALIBRATED = "float32", "int8", "int8, calibrated"


@dataclasses.dataclass(frozen=True)
class KindResult:
    """What a file does with one kind of activations.

    Attributes:
        kind: "float32"; "int8", each row with its own scale; or "int8, calibrated", with the scales in the file. Layers
            of an int8 file that stayed float32 do so in all.
        is_file: whether the file itself computes so.
        accuracy: fraction of right answers, 0 to 1.
        error_percent: 100 * (1 - accuracy).
        latency_ms: median time of one inference, batch 1, in turn with the other kinds.
    """

    kind: str
    is_file: bool
    accuracy: float
    error_percent: float
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return dataclasses.asdict(self)


def variants(source: Any) -> dict[str, bytes]:
    """The file with each kind of activations; its own kind is the file as it is.

    Layers of an int8 file that stayed float32 do so in all kinds; all packed layers of a float32 file become int8.

    Args:
        source: path or bytes of a .tflite file.

    Returns:
        Kind -> file: "float32" and "int8", and "int8, calibrated" if the file has scales; empty for a file without
        layers that compute on packed weights, or whose int8 layers are all dense ones.
    """
    data = files.read_tflite(source)
    own = own_kind(data)
    if not own:
        return {}
    found = {kind: data if kind == own else _changed(data, kind) for kind in (FLOAT32, BY_ROW)}
    return found if own in found else {**found, own: data}


def own_kind(data: bytes) -> str:
    """The kind of activations of a file: int8 if one layer on packed weights has it; empty where `variants` are."""
    model = flatbuffer.read(data)
    options = [options_of(model, op) for _, op in computing(model)]
    if any(option.x_scale is not None for option in options):
        return CALIBRATED
    if any(option.activations == "int8" for option in options):
        return BY_ROW
    return FLOAT32 if options and not has_dense_int8(model) else ""


def _changed(data: bytes, kind: str) -> bytes:
    model = flatbuffer.read(data)
    places = [place for place, op in computing(model) if options_of(model, op).activations == "int8"]
    set_activations(model, kind, places=places or None)
    return flatbuffer.write(model)


def kinds_table(results: Sequence[KindResult]) -> str:
    """The kinds as a table; a star marks the file's own."""
    rows = [["activations", "accuracy", "error %", "latency µs"]]
    for result in results:
        name = f"{result.kind} *" if result.is_file else result.kind
        rows.append([name, f"{result.accuracy:.4f}", f"{result.error_percent:.2f}", f"{1000 * result.latency_ms:,.1f}"])
    return text_table(rows)
