"""What was found out about .tflite files: tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from keras_prune_export.activation_kinds import KindResult, kinds_table
from keras_prune_export.layer_bytes import LayerBytes, bytes_table
from keras_prune_export.layer_errors import LayerError, error_table
from keras_prune_export.op_latency import OperatorLatency, latency_table
from keras_prune_export.targets import packed
from keras_prune_export.text_table import optional, text_table

_COLUMNS = ("file", "accuracy", "error %", "bytes", "gzip bytes", "latency µs", "p10 µs", "p90 µs", "peak memory")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one .tflite file does.

    Attributes:
        name: of the file in a comparison.
        accuracy: fraction of right answers, 0 to 1; None without labels.
        error_percent: 100 * (1 - accuracy).
        num_bytes: of the file.
        gzip_bytes: of the file after gzip.
        latency_ms: median time of one inference, batch 1.
        latency_ms_p10: one inference in ten takes less.
        latency_ms_p90: nine in ten take less.
        peak_memory_bytes: growth of a fresh process by loading and running the file; None where unknown.
        layers: the packed layers, with their bytes by part.
        sizes: every byte of the file, by layer and part; the last two rows are no layers.
        errors: of each layer against the reference; empty without one.
        operators: the latency of each; empty if they were not timed.
        kinds: accuracy and latency with float32 and with int8 activations; empty without labels, or where no layer
            computes on packed weights.
        predictions: (examples,) int64, the class that the file chose for each example; None without labels.
    """

    name: str
    accuracy: float | None
    error_percent: float | None
    num_bytes: int
    gzip_bytes: int
    latency_ms: float
    latency_ms_p10: float
    latency_ms_p90: float
    peak_memory_bytes: int | None
    layers: tuple[packed.Layer, ...]
    sizes: tuple[LayerBytes, ...]
    errors: tuple[LayerError, ...] = ()
    operators: tuple[OperatorLatency, ...] = ()
    kinds: tuple[KindResult, ...] = ()
    predictions: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def weights_kept(self) -> int:
        """Weights in the packed layers that are not zero; biases, of one dimension, are left out."""
        return sum(layer.kept for layer in self.layers if len(layer.shape) > 1)

    @property
    def other_bytes(self) -> int:
        """Bytes of the file outside the packed weights: biases, other layers, names."""
        return self.num_bytes - sum(layer.num_bytes for layer in self.layers)

    @property
    def entropy_bound(self) -> float:
        """Bytes that the positions and codes of all packed layers need at least, if the weights are independent."""
        return sum(row.entropy_bound or 0 for row in self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for JSON."""
        lists = ("layers", "sizes", "errors", "operators", "kinds")
        names = [field.name for field in dataclasses.fields(self) if field.name not in (*lists, "predictions")]
        values = {name: getattr(self, name) for name in names}
        values |= {name: getattr(self, name) for name in ("weights_kept", "other_bytes", "entropy_bound")}
        return {**values, **{name: [entry.to_dict() for entry in getattr(self, name)] for name in lists}}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def row(self) -> list[str]:
        """The cells of `Comparison`'s table."""
        memory = "?" if self.peak_memory_bytes is None else f"{self.peak_memory_bytes:,}"
        times = [f"{1000 * value:,.1f}" for value in (self.latency_ms, self.latency_ms_p10, self.latency_ms_p90)]
        counts = [f"{self.num_bytes:,}", f"{self.gzip_bytes:,}"]
        judged = [optional(self.accuracy, ".4f"), optional(self.error_percent, ".2f")]
        return [self.name, *judged, *counts, *times, memory]

    def __str__(self) -> str:
        tables = [text_table([list(_COLUMNS), self.row()])]
        tables += [kinds_table(self.kinds)] if self.kinds else []
        tables += [bytes_table(self.sizes)]
        tables += [error_table(self.errors)] if self.errors else []
        return "\n\n".join([*tables, *([latency_table(self.operators)] if self.operators else [])])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several files, timed in turn in one run; ``str`` gives one table.

    Attributes:
        evaluations: name -> evaluation, in the order they were given.
    """

    evaluations: dict[str, Evaluation]

    def __getitem__(self, name: str) -> Evaluation:
        return self.evaluations[name]

    def to_dict(self) -> dict[str, Any]:
        """Name -> `Evaluation.to_dict`."""
        return {name: evaluation.to_dict() for name, evaluation in self.evaluations.items()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return text_table([list(_COLUMNS), *(evaluation.row() for evaluation in self.evaluations.values())])
