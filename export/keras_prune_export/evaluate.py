"""Judge .tflite files on the device runtime: accuracy, bytes, latency, memory, side by side."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune_export import activation_kinds, checks, files, flatbuffer, measure, model_inputs, runtime
from keras_prune_export.evaluation import Comparison, Evaluation
from keras_prune_export.layer_bytes import layer_bytes
from keras_prune_export.layer_errors import layer_errors
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.op_latency import op_latencies
from keras_prune_export.progress import Progress


def predict_tflite(model: Any, x: Any, *, num_threads: int = 1, batch_size: int = 256) -> np.ndarray:
    """Runs a .tflite file on examples, through the device runtime and our delegate.

    Args:
        model: path or bytes.
        x: (examples, ...) inputs; for a full-integer file in real units, they are quantized here. For a file with
            several inputs a list in its order, or a dict by name.
        num_threads: of the runtime.
        batch_size: examples at once, >= 1; a file whose batch is fixed needs that one.

    Returns:
        The first output, (examples, ...), as the file gives it.

    Raises:
        ValueError: ``x`` does not fit the model's inputs, or the file is not one that `load_interpreter` loads.
    """
    batch_size = checks.positive(batch_size, "expected batch_size")
    interpreter = runtime.load_interpreter(model, num_threads=num_threads)
    arrays = model_inputs.arrays(interpreter, x)
    output = interpreter.get_output_details()[0]["index"]
    parts = []
    progress = Progress("predict", -(-len(arrays[0]) // batch_size))
    for start in range(0, len(arrays[0]), batch_size):
        model_inputs.feed(interpreter, [values[start : start + batch_size] for values in arrays])
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


def _check_labels(count: int, y: np.ndarray) -> None:
    if y.shape == (count,) and np.issubdtype(y.dtype, np.integer):
        return
    advice = "give one label for each example"
    if y.ndim == 2 and len(y) == count:
        advice = "take the only column, y[:, 0]" if y.shape[1] == 1 else "turn one-hot labels into classes: y.argmax(1)"
    elif y.shape == (count,):
        advice = "convert labels that are whole numbers with y.astype(int)"
    raise ValueError(
        f"y: expected {count} integer labels of shape ({count},), got {y.dtype} of shape {y.shape}; {advice}"
    )


def compare_tflite(
    models: Mapping[str, Any], x: Any, y: Any = None, *, num_threads: int = 1, batch_size: int = 256
) -> Comparison:
    """Judges several .tflite files on the same examples; their latencies are measured in turn, in one run.

    Args:
        models: name -> path or bytes.
        x: (examples, ...) inputs; for files with several inputs a list in their order, or a dict by name.
        y: (examples,) integer labels for classifiers; None: no accuracy.
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
    if not models:
        raise ValueError("compare_tflite: expected at least one model, got none")
    batch_size = checks.positive(batch_size, "expected batch_size")
    inputs = {name: model_inputs.arrays(runtime.load_interpreter(model), x) for name, model in models.items()}
    judged: dict[str, dict[str, Any]] = {name: {} for name in models}
    if y is not None:
        y = np.asarray(y)
        _check_labels(len(next(iter(inputs.values()))[0]), y)
        for name, model in models.items():
            outputs = predict_tflite(model, inputs[name], num_threads=num_threads, batch_size=batch_size)
            judged[name] = _judged(_predicted_classes(outputs, y), y)
    first = [values[0] for values in next(iter(inputs.values()))]
    latencies = measure.latencies(dict(models), first, num_threads=num_threads)
    found = {}
    for name, model in models.items():
        shapes = [(1, *values.shape[1:]) for values in inputs[name]]
        memory = measure.peak_memory(model, num_threads=num_threads, shape=shapes)
        found[name] = _evaluation(name, files.read_tflite(model), latencies[name], memory=memory, **judged[name])
    return Comparison(found)


def evaluate_tflite(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    num_threads: int = 1,
    batch_size: int = 256,
    reference: Any = None,
    time_operators: bool = False,
) -> Evaluation:
    """Judges one .tflite file, of any kind, on the device runtime; printing the result shows tables.

    Always: accuracy, latency, peak memory, and every byte of the file by layer beside the entropy bound. With labels,
    where layers compute on packed weights: accuracy and latency of the same weights with float32 and with int8
    activations. On request: errors by layer, latency by operator (docs/evaluating.md says how all are measured).

    Args:
        model: path or bytes.
        x: (examples, ...) inputs; for a file with several inputs a list in its order, or a dict by name.
        y: (examples,) integer labels for a classifier, whose answer is the largest value of the first output; None: no
            accuracy.
        num_threads: of the runtime.
        batch_size: examples at once for the accuracy; latency is always that of one example.
        reference: the float model (path or bytes of its .tflite file, or the Keras model): the errors of each layer's
            weights and outputs against it.
        time_operators: also time each operator by itself, in turn with the reference's; a third of a second each.

    Returns:
        The evaluation.

    Raises:
        ValueError: ``x`` and ``y`` do not fit the model or each other, or the reference is of another network.

    Example:
        >>> print(keras_prune.evaluate_tflite("model.tflite", x_test, y_test))  # doctest: +SKIP
    """
    batch_size = checks.positive(batch_size, "expected batch_size")
    reference = _as_file(reference)
    options = {"num_threads": num_threads}
    result = compare_tflite({"model": model}, x, y, batch_size=batch_size, **options)["model"]
    if y is not None:
        result = dataclasses.replace(result, kinds=_kinds(model, x, y, judged=result, batch_size=batch_size, **options))
    if reference is not None:
        errors = layer_errors(model, reference, x, batch_size=batch_size, **options)
        result = dataclasses.replace(result, errors=errors)
    if time_operators:
        result = dataclasses.replace(result, operators=op_latencies(model, x, reference=reference, **options))
    return result


def _kinds(
    model: Any, x: Any, y: Any, *, judged: Evaluation, num_threads: int, batch_size: int
) -> tuple[activation_kinds.KindResult, ...]:
    """The file with float32 and with int8 activations; what is known of the file itself is not run again."""
    found = activation_kinds.variants(model)
    if not found:
        return ()
    y, own = np.asarray(y), activation_kinds.own_kind(files.read_tflite(model))
    arrays = model_inputs.arrays(runtime.load_interpreter(model), x)
    latencies = measure.latencies(dict(found), [values[0] for values in arrays], num_threads=num_threads)
    rows = []
    for kind, data in found.items():
        predictions = judged.predictions
        if kind != own:
            outputs = predict_tflite(data, arrays, num_threads=num_threads, batch_size=batch_size)
            predictions = _predicted_classes(outputs, y)
        scores = _judged(predictions, y)
        accuracy, error = scores["accuracy"], scores["error_percent"]
        rows.append(activation_kinds.KindResult(kind, kind == own, accuracy, error, latencies[kind].median))
    return tuple(rows)


def _as_file(reference: Any) -> Any:
    """A reference as a path or bytes: a Keras model is converted."""
    if reference is None or isinstance(reference, str | os.PathLike | bytes | bytearray | memoryview):
        return reference
    from keras_prune_export import converter  # noqa: PLC0415 (imports TensorFlow, which devices do not have)

    return converter.convert(reference)


def _evaluation(name: str, data: bytes, latency: measure.Latency, *, memory: int | None, **judged: Any) -> Evaluation:
    return Evaluation(
        name=name,
        **({"accuracy": None, "error_percent": None} | judged),
        num_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, mtime=0)),
        latency_ms=latency.median,
        latency_ms_p10=latency.p10,
        latency_ms_p90=latency.p90,
        peak_memory_bytes=memory,
        layers=tuple(packed_layers(flatbuffer.read(data))),
        sizes=layer_bytes(data),
    )


def _judged(classes: Any, y: np.ndarray) -> dict[str, Any]:
    right = classes == y
    return {"accuracy": float(right.mean()), "error_percent": 100 * float((~right).mean()), "predictions": classes}
