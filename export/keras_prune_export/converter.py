"""Keras 3 model -> .tflite by TensorFlow's own converter, without its noise."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from keras_prune_export import checks

OPTIMIZATIONS = (None, "float16", "dynamic_range", "int8")
_CALIBRATION_EXAMPLES = 300  # as the converter's guide advises: 100 to 500


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
    """Converts a Keras model with TensorFlow's converter: the stock files that packed ones are compared with.

    Args:
        model: a built Keras 3 model; it is not changed.
        optimize: None for float32, "float16" (weights), "dynamic_range" (int8 weights), or "int8" (weights and
            activations; inputs and outputs stay float32).
        representative_data: for "int8": inputs of a model with one input, (examples, ...) float32, of which 300 are
            used; or a function that yields lists of inputs, as the converter takes it.

    Returns:
        The .tflite file's bytes.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not built, an unknown optimization, "int8" without data, or the converter's own refusal.
    """
    checks.check_model(model, "convert")
    if optimize not in OPTIMIZATIONS:
        raise ValueError(f"convert: expected optimize to be one of {OPTIMIZATIONS}, got {optimize!r}")
    if (optimize == "int8") != (representative_data is not None):
        raise ValueError("convert: expected representative_data with optimize='int8', and only with it")
    with tempfile.TemporaryDirectory(prefix="keras_prune_") as folder, _quiet():
        try:
            model.export(folder)
            return bytes(_converter(folder, optimize, representative_data).convert())
        except Exception as error:
            raise ValueError(_refusal(model.name, str(error))) from error


def _refusal(name: str, problem: str) -> str:
    """The converter's complaint, shortened (all of it is in the exception that caused ours), and what to do."""
    short = problem if len(problem) <= 300 else f"{problem[:300]} ..."
    is_loop = "TensorList" in problem
    advice = ". Give recurrent layers unroll=True: the converter cannot express their loop" if is_loop else ""
    return f"convert: TensorFlow's converter refused the model {name!r}: {short}{advice}"


def _converter(folder: str, optimize: str | None, representative_data: Any) -> Any:
    import tensorflow as tf  # noqa: PLC0415

    stock = tf.lite.TFLiteConverter.from_saved_model(folder)
    if optimize is not None:
        stock.optimizations = [tf.lite.Optimize.DEFAULT]
    if optimize == "float16":
        stock.target_spec.supported_types = [tf.float16]
    if optimize == "int8":
        stock.representative_dataset = _representative(representative_data)
        stock.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return stock


def _representative(data: Any) -> Callable[[], Iterable[Any]]:
    if callable(data):
        return data
    examples = np.asarray(data, np.float32)[:_CALIBRATION_EXAMPLES]
    return lambda: ([examples[index : index + 1]] for index in range(len(examples)))
