"""Keras model or SavedModel -> .tflite file with packed layers: the order of the steps, nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.int8 import Int8
from keras_prune_export import (
    checks,
    converter,
    copies,
    files,
    flatbuffer,
    origins,
    packing,
    quantization,
    source_folder,
)
from keras_prune_export.activations import Activations
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import stock
from keras_prune_export.transformations.choose import Choice, choose

TARGETS = ("packed", "stock")


def export_tflite(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    weights: Any = None,
    activations: str = "float32",
    target: str = "packed",
    min_sparsity: float = 0.1,
    representative_data: Any = None,
) -> bytes:
    """Exports a pruned Keras model to a .tflite file whose weights are packed: small, and fast where it is sparse.

    A pruned fully connected layer or convolution becomes one custom operator that computes on the packed weights, where
    a model of the costs says that this is faster than dense kernels (`device_costs`). The packed weights of all others
    (embeddings, recurrent layers, ...) are expanded once, when the file is loaded, and the runtime's own operators
    compute (docs/exporting.md). `load_interpreter` runs the file. A model that computes in another type
    (mixed_float16, float64, ...) is exported through a copy in float32.

    Args:
        model: a built Keras 3 model, which is not changed, or the path of a SavedModel's folder (``model.export``,
            ``tf.saved_model.save``): its signatures are kept, and its weights are quantized as in `pack_tflite`.
        path: where to write the file, atomically; None to only return the bytes.
        weights: None: the pruned weights of fully connected layers become ``Codebook(4)``, those of others
            ``Codebook(8)``. Else a `Codebook`, `Int8()`, "float16" or "lossless" for all pruned weights, or a dict of
            layer names or regular expressions to these. Weights that are not pruned keep every bit. At most
            ``2**bits - 1`` distinct non-zero weights are kept exactly by a codebook.
        activations: "float32"; or "int8": the fully connected layers and convolutions that compute on packed weights
            quantize each row or patch of their activations, and their codebook, to int8 while they run. Those on which
            dense int8 kernels are faster become these: int8 weights with one scale, expanded at load, and a scale for
            each row or image of activations, in the runtime's own operator. Other layers stay as they are, and so do
            convolutions that are faster in float32, on packed weights or dense. With weights `Int8()`, or target
            "stock", all operators compute in integers. Inputs and outputs of the file stay float32. `evaluate_tflite`
            reports the accuracy of both kinds (docs/exporting.md).
        target: "packed", or "stock" for built-in operators only: weights None (every bit), "float16" or `Int8()`, all
            of them, pruned or not, or "sparse": float32 in TFLite's own sparse tensors (docs/quantization.md).
        min_sparsity: weights are pruned when at least this fraction is exactly zero, 0 to 1; with 0 all are.
        representative_data: for int8 activations: some hundred typical inputs, (examples, ...), or a function that
            yields lists of inputs. Layers that compute on packed weights then have one scale for good, the largest
            value that they get / 127; without it each row has its own. Integer operators need it.

    Returns:
        The file's bytes.

    Raises:
        TypeError: neither a Keras 3 model nor a path, ``weights`` is none of these, or ``path`` is no path.
        ValueError: no SavedModel, or one that `export_saved_model` packed; the model is not built, has NaN or infinite
            weights, pruned weights that are not zero any more, nothing pruned, or no layer for int8 activations; an
            argument is out of range; or the converter refused the model.
        FileNotFoundError: there is no such SavedModel, or the folder of ``path`` does not exist.

    Example:
        >>> data = keras_prune.export_tflite(model, "model.tflite")  # doctest: +SKIP
    """
    if target not in TARGETS:
        raise ValueError(f"export_tflite: expected target to be one of {TARGETS}, got {target!r}")
    stock.check_target(weights, target, function="export_tflite")
    schemes = Schemes(None if stock.is_sparse(weights) else weights, min_sparsity, "export_tflite")
    kind = Activations(activations, representative_data, "export_tflite")
    is_stock = target == "stock" or (activations == "int8" and isinstance(weights, Int8))
    if is_stock:
        stock.check(weights, activations, representative_data)
    if path is not None:
        files.check_folder(path)
    _check_source(model)
    if is_stock:
        data = stock.make(model, weights=weights, activations=activations, representative_data=representative_data)
        data = data if target == "stock" else packing.pack(data, Schemes("lossless"))[0]
    else:
        make = _packed_folder if source_folder.is_path(model) else _packed
        data = make(model, schemes, kind)
    if path is not None:
        files.write_atomic(path, data)
    return data


def _check_source(model: Any) -> None:
    """Refuses what cannot be exported; a SavedModel has no masks that could be checked."""
    if source_folder.is_path(model):
        source_folder.read(model, "export_tflite")
    else:
        checks.check_model(model, "export_tflite")
        checks.check_masks(model, "export_tflite")


def _packed_folder(folder: Any, schemes: Schemes, activations: Activations) -> bytes:
    """Packs what the converter makes of a SavedModel; there is no Keras model to quantize before it is folded."""
    data = converter.convert(folder)
    file = packing.load(data, schemes.function)
    choices = choose(file, schemes)
    _check_packed(choices, schemes)
    return packing.finish(file, choices, data, activations=activations)[0]


def _packed(model: Any, schemes: Schemes, activations: Activations) -> bytes:
    """Packs the converter's file; first converts again from quantized kernels if anything else in it comes from them.

    The converter folds what stands before a layer into its kernel (a scale) and its bias (offset times kernel). That
    has to be the quantized kernel, or each output is off by the offset times all its weights' errors.
    """
    model = copies.as_float32(model, schemes.function)
    data = converter.convert(model)
    file = packing.load(data, schemes.function)
    choices = choose(file, schemes, origins.names(model, file))
    matches = [match for match in quantization.find(model, choices) if match.changes]
    if not all(match.quantized for match in matches) and _is_folded(model, file, choices, matches=matches):
        with quantization.assigned(matches):
            data = converter.convert(model)
        file = packing.load(data, schemes.function)
        choices = choose(file, schemes, origins.names(model, file))
    _check_packed(choices, schemes)
    return packing.finish(file, choices, data, activations=activations)[0]


def _is_folded(model: Any, file: Any, choices: list[Choice], *, matches: list[quantization.Match]) -> bool:
    """Whether a constant beside the quantized weights may come from a kernel; not if it is just another variable."""
    weights = {choice.constant.buffer for choice in choices if not choice.is_exact}
    kernels = {id(variable) for match in matches for variable, _ in match.changes}
    others = {_sorted_bytes(v.numpy()) for v in model.weights if id(v) not in kernels and v.dtype == "float32"}
    constants = flatbuffer.float_constants(file)
    folded = any(_sorted_bytes(values) not in others for buffer, values in constants.items() if buffer not in weights)
    return folded or any(match.folded for match in matches)


def _sorted_bytes(values: np.ndarray) -> bytes:
    """The same for all orders of the values: the converter transposes and reshapes."""
    return hashlib.blake2b(np.sort(values + np.float32(0), axis=None).tobytes()).digest()  # -0 is 0


def _check_packed(choices: list[Choice], schemes: Schemes) -> None:
    """Refuses a model of which nothing is pruned, unless it was said what to do with weights that are not."""
    if schemes.weights == "lossless" or isinstance(schemes.weights, Mapping):
        return
    if any(c.packed is not None and c.values is not None and schemes.is_pruned(c.values) for c in choices):
        return
    found = "\n".join(f"  {choice.name} {choice.shape}: {_why(choice, schemes)}" for choice in choices)
    raise ValueError(
        f"export_tflite: expected a layer with at least min_sparsity={schemes.min_sparsity:g} of its weights pruned, "
        f"got\n{found or '  no weights'}\n"
        "prune the model first (keras_prune.PruneCallback or keras_prune.prune), pass min_sparsity=0 to quantize dense "
        "layers too, weights='lossless' to pack them as they are, or target='stock' for a plain file"
    )


def _why(choice: Choice, schemes: Schemes) -> str:
    if choice.values is None or schemes.is_pruned(choice.values):
        return choice.reason
    zeros = 1 - np.count_nonzero(choice.values) / choice.values.size
    return f"not pruned: {zeros:.1%} of the weights are zero, below min_sparsity={schemes.min_sparsity:g}"
