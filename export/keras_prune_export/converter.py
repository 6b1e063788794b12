"""Keras 3 model or SavedModel -> .tflite by TensorFlow's own converter, without its noise."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_prune_export import calibration_examples, checks, copies, source_folder

OPTIMIZATIONS = (None, "float16", "dynamic_range", "int8", "sparse")
_LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization", "Hashing", "HashedCrossing")
# Newer converters give dynamic-range FULLY_CONNECTED a scale for each output: version 12 of the operator, which
# tflite-runtime 2.14 refuses. Those without this switch know one scale only.
_ONE_SCALE = "_experimental_disable_per_channel_quantization_for_dense_layers"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the export's messages and the converter's notes and warnings from the user's screen and test suite."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _native_stderr_discarded():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _native_stderr_discarded() -> Iterator[None]:
    """The converter's C++ part writes to file descriptor 2 itself; its errors also come as exceptions."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a service may have closed it
            saved = os.dup(2)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, 2)
            with pathlib.Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield


def convert(model: Any, *, optimize: str | None = None, representative_data: Any = None) -> bytes:
    """Converts a model with TensorFlow's converter: the stock files that packed ones are compared with.

    A model of another type (mixed_float16, float64, ...) is converted through a copy in float32, so that the file's
    inputs and outputs are float32.

    Args:
        model: a built Keras 3 model, which is not changed, or the path of a SavedModel's folder, whose signatures the
            file will have.
        optimize: None for float32, "float16" (weights), "dynamic_range" (int8 weights, one scale for each output; in
            fully connected layers one for all, which is what tflite-runtime 2.14 can read), or "int8" (weights and
            activations; inputs and outputs stay float32), or "sparse" (float32, weights with many zeros in TFLite's own
            sparse form; `keras_prune_export.targets.sparse` checks that such files run).
        representative_data: for "int8": inputs of a model with one input, (examples, ...), of which 300 are used; or
            a function that yields lists of inputs, as the converter takes it (with several signatures, pairs of a
            signature and a dict of inputs).

    Returns:
        The .tflite file's bytes.

    Raises:
        TypeError: neither a Keras 3 model nor a path.
        FileNotFoundError: nothing is at the path.
        ValueError: not built, NaN or infinite weights, no SavedModel or a packed one, an unknown optimization, "int8"
            without data or with data that does not fit, or the converter's own refusal.
    """
    folder = source_folder.read(model, "convert") if source_folder.is_path(model) else None
    if folder is None:
        checks.check_model(model, "convert")
    if optimize not in OPTIMIZATIONS:
        raise ValueError(f"convert: expected optimize to be one of {OPTIMIZATIONS}, got {optimize!r}")
    if (optimize == "int8") != (representative_data is not None):
        raise ValueError("convert: expected representative_data with optimize='int8', and only with it")
    if folder is not None:
        data = calibration_examples.of_folder(folder, representative_data)
        with tempfile.TemporaryDirectory(prefix="keras_prune_") as made, quiet():
            return _converted(lambda: source_folder.without_twin(folder, made), optimize, data, name=str(folder.path))
    source = copies.as_float32(model, "convert")
    data = calibration_examples.of_model(model, representative_data)
    with tempfile.TemporaryDirectory(prefix="keras_prune_") as made, quiet():
        layers = copies.all_layers(model)
        return _converted(lambda: _exported(source, made), optimize, data, name=model.name, layers=layers)


def _exported(model: Any, folder: str) -> str:
    model.export(folder)
    return folder


def _converted(
    made: Callable[[], str], optimize: str | None, data: Any, *, name: str, layers: Sequence[Any] = ()
) -> bytes:
    """Converts the SavedModel that ``made`` makes or finds."""
    try:
        result = bytes(_converter(made(), optimize, data).convert())
    except Exception as error:
        raise ValueError(_refusal(name, str(error), layers)) from error
    if optimize == "int8":
        calibration_examples.check_integers(result, name)
    return result


def _refusal(name: str, problem: str, layers: Sequence[Any]) -> str:
    """The converter's complaint, shortened (all of it is in the exception that caused ours), and what to do."""
    operators = list(dict.fromkeys(re.findall(r"'tfl?\.(\w+)' op", problem)))
    lines = [line for line in problem.strip().splitlines() if line]
    short = f"it cannot express {', '.join(operators[:3])}" if operators else (lines or ["no reason given"])[0][:200]
    advice = list(filter(None, map(_layer_advice, layers)))
    if not advice and "TensorList" in problem:
        advice = ["give recurrent layers unroll=True: the converter cannot express their loop"]
    advice = advice or ["replace the layer that needs it, or export the part of the model without it"]
    return f"convert: TensorFlow's converter refused the model {name!r}: {short}; {'; '.join(advice)}"


def _layer_advice(layer: Any) -> str:
    """What to do about a layer that the converter is known to refuse; empty for others."""
    kind, name = type(layer).__name__, layer.name
    if kind == "PackedDense":
        return f"layer {name!r} (PackedDense) runs in TensorFlow: export the model as it was before from_dense"
    if getattr(layer, "quantization_mode", None):
        mode = layer.quantization_mode
        return f"layer {name!r} was quantized to {mode} by Keras: export the model as it was before model.quantize()"
    if kind in _LOOKUPS:
        return f"layer {name!r} ({kind}) looks values up in a table: do that before the model, and export the rest"
    return ""


def _converter(folder: str, optimize: str | None, representative_data: Any) -> Any:
    import tensorflow as tf  # noqa: PLC0415

    stock = tf.lite.TFLiteConverter.from_saved_model(folder)
    if optimize is not None:
        # Never both: the default interpreter refuses what is sparse and quantized.
        is_sparse = optimize == "sparse"
        stock.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY if is_sparse else tf.lite.Optimize.DEFAULT]
    if optimize == "float16":
        stock.target_spec.supported_types = [tf.float16]
    if optimize == "dynamic_range" and hasattr(stock, _ONE_SCALE):
        setattr(stock, _ONE_SCALE, True)
    if optimize == "int8":
        stock.representative_dataset = representative_data
        stock.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return stock
