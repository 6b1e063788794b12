"""Judge .tflite files on the device runtime: accuracy, bytes, latency, memory, side by side."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_prune_export import checks, files, flatbuffer, measure, runtime
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.progress import Progress
from keras_prune_export.targets import packed

_COLUMNS = ("file", "accuracy", "error %", "bytes", "gzip bytes", "latency µs", "p10 µs", "p90 µs", "peak memory")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one .tflite file does.

    Attributes:
        name: of the file in a comparison.
        accuracy: fraction of right answers, 0 to 1.
        error_percent: 100 * (1 - accuracy).
        num_bytes: of the file.
        gzip_bytes: of the file after gzip.
        latency_ms: median time of one inference, batch 1.
        latency_ms_p10: one inference in ten takes less.
        latency_ms_p90: nine in ten take less.
        peak_memory_bytes: growth of a fresh process by loading and running the file; None where unknown.
        layers: the packed layers, with their bytes by part.
        predictions: (examples,) int64, the class that the file chose for each example.
    """

    name: str
    accuracy: float
    error_percent: float
    num_bytes: int
    gzip_bytes: int
    latency_ms: float
    latency_ms_p10: float
    latency_ms_p90: float
    peak_memory_bytes: int | None
    layers: tuple[packed.Layer, ...]
    predictions: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def weights_kept(self) -> int:
        """Weights in the packed layers that are not zero; biases, of one dimension, are left out."""
        return sum(layer.kept for layer in self.layers if len(layer.shape) > 1)

    @property
    def other_bytes(self) -> int:
        """Bytes of the file outside the packed weights: biases, other layers, names."""
        return self.num_bytes - sum(layer.num_bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for JSON."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("layers", "predictions")]
        values = {name: getattr(self, name) for name in names}
        layers = [layer.to_dict() for layer in self.layers]
        return {**values, "weights_kept": self.weights_kept, "other_bytes": self.other_bytes, "layers": layers}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def row(self) -> list[str]:
        """The cells of `Comparison`'s table."""
        memory = "?" if self.peak_memory_bytes is None else f"{self.peak_memory_bytes:,}"
        times = [f"{1000 * value:,.1f}" for value in (self.latency_ms, self.latency_ms_p10, self.latency_ms_p90)]
        counts = [f"{self.num_bytes:,}", f"{self.gzip_bytes:,}"]
        return [self.name, f"{self.accuracy:.4f}", f"{self.error_percent:.2f}", *counts, *times, memory]

    def __str__(self) -> str:
        text = _table([list(_COLUMNS), self.row()])
        return f"{text}\n\n{layer_table(self.layers)}" if self.layers else text


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
        return _table([list(_COLUMNS), *(evaluation.row() for evaluation in self.evaluations.values())])


def _table(rows: list[list[str]]) -> str:
    """Rows of cells in aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)


def layer_table(layers: Iterable[packed.Layer]) -> str:
    """The packed layers with their bytes by part, as a table."""
    bits = ["gap bits", "code bits"]
    header = ["layer", "shape", "kept", "density", "fillers", *bits, "header", "codebook", "gaps", "codes", "bytes"]
    rows = [header]
    for layer in layers:
        parts = [layer.header_bytes, layer.codebook_bytes, layer.gap_bytes, layer.code_bytes, layer.num_bytes]
        shape, density = "x".join(map(str, layer.shape)), f"{layer.kept / layer.num_weights:.2%}"
        counts = [f"{value:,}" for value in parts]
        widths = [str(layer.gap_bits), str(layer.code_bits)]
        rows.append([layer.name, shape, f"{layer.kept:,}", density, f"{layer.fillers:,}", *widths, *counts])
    return _table(rows)


def predict_tflite(model: Any, x: np.ndarray, *, num_threads: int = 1, batch_size: int = 256) -> np.ndarray:
    """Runs a .tflite file on examples, through the device runtime and our delegate.

    Args:
        model: path or bytes of a file with one input.
        x: (examples, ...) inputs; for a full-integer file in real units, they are quantized here.
        num_threads: of the runtime.
        batch_size: examples at once, >= 1; a file whose batch is fixed needs that one.

    Returns:
        The first output, (examples, ...), as the file gives it.

    Raises:
        ValueError: ``x`` does not fit the model's input, or the file is not one that `load_interpreter` loads.
    """
    x = np.asarray(x)
    batch_size = checks.positive(batch_size, "expected batch_size")
    interpreter = runtime.load_interpreter(model, num_threads=num_threads)
    measure.check_shape(measure.single_input(interpreter), x.shape)
    output = interpreter.get_output_details()[0]["index"]
    parts = []
    progress = Progress("predict", -(-len(x) // batch_size))
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        measure.set_shape(interpreter, batch.shape)
        interpreter.set_tensor(measure.single_input(interpreter)["index"], measure.quantize_input(interpreter, batch))
        interpreter.invoke()
        parts.append(interpreter.get_tensor(output))
        progress.step()
    return np.concatenate(parts)


def _predicted_classes(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"expected a classifier: a first output of shape (examples, classes), got {outputs.shape}; "
            "use predict_tflite and a measure of your own"
        )
    wrong = y[(y < 0) | (y >= outputs.shape[1])]
    if len(wrong):
        raise ValueError(
            f"y: expected labels from 0 to {outputs.shape[1] - 1}, the model's classes, got {wrong[0]} "
            f"({len(wrong)} of {len(y)} labels are out of range); number the classes from 0"
        )
    return outputs.argmax(axis=1)


def _check_labels(x: np.ndarray, y: np.ndarray) -> None:
    if y.shape == (len(x),) and np.issubdtype(y.dtype, np.integer):
        return
    advice = "give one label for each example"
    if y.ndim == 2 and len(y) == len(x):
        advice = "take the only column, y[:, 0]" if y.shape[1] == 1 else "turn one-hot labels into classes: y.argmax(1)"
    elif y.shape == (len(x),):
        advice = "convert labels that are whole numbers with y.astype(int)"
    raise ValueError(
        f"y: expected {len(x)} integer labels of shape ({len(x)},), got {y.dtype} of shape {y.shape}; {advice}"
    )


def compare_tflite(
    models: Mapping[str, Any], x: np.ndarray, y: np.ndarray, *, num_threads: int = 1, batch_size: int = 256
) -> Comparison:
    """Judges several .tflite classifiers on the same examples; their latencies are measured in turn, in one run.

    Args:
        models: name -> path or bytes.
        x: (examples, ...) inputs.
        y: (examples,) integer labels.
        num_threads: of the runtime.
        batch_size: examples at once for the accuracy; latency is always that of one example.

    Returns:
        The comparison; printing it shows a table.

    Raises:
        TypeError: ``models`` is no mapping.
        ValueError: no models, or ``x`` and ``y`` do not fit them or each other.

    Example:
        >>> print(compare_tflite({"float": float_file, "packed": file}, x_test, y_test))  # doctest: +SKIP
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"compare_tflite: expected a dict of names and files, got {type(models).__name__}; pass {{'a': a}}"
        )
    x, y = np.asarray(x), np.asarray(y)
    if not models:
        raise ValueError("compare_tflite: expected at least one model, got none")
    _check_labels(x, y)
    classes = {}
    for name, model in models.items():
        outputs = predict_tflite(model, x, num_threads=num_threads, batch_size=batch_size)
        classes[name] = _predicted_classes(outputs, y)
    latencies = measure.latencies(dict(models), x[0], num_threads=num_threads)
    evaluations = {}
    for name, model in models.items():
        memory = measure.peak_memory(model, num_threads=num_threads, shape=(1, *x.shape[1:]))
        data, right = files.read_tflite(model), classes[name] == y
        evaluations[name] = Evaluation(
            name=name,
            accuracy=float(right.mean()),
            error_percent=100 * float((~right).mean()),
            num_bytes=len(data),
            gzip_bytes=len(gzip.compress(data, mtime=0)),
            latency_ms=latencies[name].median,
            latency_ms_p10=latencies[name].p10,
            latency_ms_p90=latencies[name].p90,
            peak_memory_bytes=memory,
            layers=tuple(packed_layers(flatbuffer.read(data))),
            predictions=classes[name],
        )
    return Comparison(evaluations)


def evaluate_tflite(
    model: Any, x: np.ndarray, y: np.ndarray, *, num_threads: int = 1, batch_size: int = 256
) -> Evaluation:
    """Judges one .tflite classifier, packed or not, on the device runtime.

    Args:
        model: path or bytes.
        x: (examples, ...) inputs.
        y: (examples,) integer labels; the answer is the largest value of the first output.
        num_threads: of the runtime.
        batch_size: examples at once for the accuracy; latency is always that of one example.

    Returns:
        Accuracy, bytes, latency, peak memory and the bytes of each packed layer.

    Raises:
        ValueError: ``x`` and ``y`` do not fit the model or each other.

    Example:
        >>> print(keras_prune.evaluate_tflite("model.tflite", x_test, y_test))  # doctest: +SKIP
    """
    return compare_tflite({"model": model}, x, y, num_threads=num_threads, batch_size=batch_size)["model"]
