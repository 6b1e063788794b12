"""The stock target: built-in operators only, by TensorFlow's converter; runs everywhere with default settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_prune.int8 import Int8
from keras_prune.quantization import Codebook
from keras_prune_export import converter
from keras_prune_export.activations import Activations
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import sparse

SPARSE = "sparse"  # TFLite's own sparse tensors: a form of stock files only, not a scheme


def make(
    model: Any,
    *,
    weights: Any = None,
    activations: str = "float32",
    representative_data: Any = None,
    function: str = "export_tflite",
) -> bytes:
    """Converts a model to a plain .tflite file. Zeros stay zero; but for "sparse" they make the file no smaller.

    | weights | activations | what it is |
    |---|---|---|
    | None, "lossless" | float32 | every bit of the weights |
    | "sparse" | float32 | every bit of the weights; where many are zero, TFLite's own sparse tensors |
    | "float16" | float32 | half the size; expanded at load, computes in float32 |
    | Int8() | float32 | a quarter; "dynamic range": activations are quantized to int8 while it runs |
    | None, Int8() | int8 | a quarter; integer arithmetic, inputs and outputs stay float32 |

    Args:
        model: as `keras_prune_export.convert` takes it.
        weights: see above; all weights are meant, pruned or not (the converter leaves those of a few hundred as they
            are).
        activations: "float32" or "int8".
        representative_data: for int8 activations: typical inputs, as `keras_prune_export.convert` takes them.
        function: name of the public function, for errors.

    Returns:
        The file's bytes.

    Raises:
        TypeError: ``weights`` is no scheme.
        ValueError: a scheme that stock files do not have, int8 activations without data, a sparse file that the default
            interpreter does not run, or the converter's refusal.
    """
    check(weights, activations, representative_data, function=function)
    if activations == "int8":
        return converter.convert(model, optimize="int8", representative_data=representative_data)
    if is_sparse(weights):
        return sparse.make(model, function=function)
    optimize = {None: None, "lossless": None, "float16": "float16", Int8(): "dynamic_range"}[weights]
    return converter.convert(model, optimize=optimize)


def check(weights: Any, activations: Any, representative_data: Any, *, function: str = "export_tflite") -> None:
    """Refuses what stock files do not have, before any work.

    Raises:
        TypeError: ``weights`` is no scheme.
        ValueError: a scheme that stock files do not have, or int8 activations without data.
    """
    Schemes(None if is_sparse(weights) else weights, function=function)
    check_activations(activations, representative_data, weights=weights, function=function)
    if isinstance(weights, Codebook | Mapping):
        kind = "a codebook" if isinstance(weights, Codebook) else "a dict of layers"
        raise ValueError(
            f"{function}: expected weights to be None, 'float16', 'sparse' or keras_prune.Int8() for target='stock', "
            f"got {kind}; built-in operators have no codebooks, and the converter treats all layers alike: take "
            "target='packed'"
        )


def check_target(weights: Any, target: str, *, function: str) -> None:
    """Refuses TFLite's sparse tensors in other files than stock ones.

    Raises:
        ValueError: as said.
    """
    if is_sparse(weights) and target != "stock":
        raise ValueError(
            f"{function}: expected weights='sparse' (TFLite's own sparse tensors) only with target='stock', got "
            f"target={target!r}; pass target='stock', or other weights: packed files store zeros smaller"
        )


def is_sparse(weights: Any) -> bool:
    """Whether TFLite's own sparse tensors are asked for."""
    return isinstance(weights, str) and weights == SPARSE


def check_activations(activations: Any, representative_data: Any, *, weights: Any, function: str) -> None:
    """Refuses unknown activations, int8 ones without data or with other weights than int8, and data without them.

    Raises:
        ValueError: as said.
    """
    Activations(activations, representative_data, function)
    if activations == "int8" and is_sparse(weights):
        raise ValueError(
            f"{function}: expected activations='float32' with weights='sparse', got 'int8': the default interpreter "
            "refuses files that are sparse and quantized; take one of the two"
        )
    if activations == "int8" and representative_data is None:
        raise ValueError(
            f"{function}: expected representative_data with activations='int8', got none; pass some hundred typical "
            "inputs, (examples, ...), or a function that yields lists of inputs"
        )
    if activations == "int8" and not (weights is None or isinstance(weights, Int8)):
        raise ValueError(
            f"{function}: expected weights=keras_prune.Int8() with activations='int8', got {weights!r}; integer "
            "operators have int8 weights"
        )
