"""Keras model -> .tflite file with packed layers: the order of the steps, nothing else."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

import numpy as np

from keras_prune.quantization import Codebook
from keras_prune_export import checks, converter, copies, files, flatbuffer, quantization
from keras_prune_export.targets import packed
from keras_prune_export.transformations.dense import pruned_but_dense
from keras_prune_export.transformations.pack_fully_connected import Choice, choose, pack_fully_connected
from keras_prune_export.transformations.tidy import tidy

TARGETS = ("packed", "stock")
_log = logging.getLogger("keras_prune")


def export_tflite(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    weights: Codebook | None = None,
    activations: str = "float32",
    target: str = "packed",
    min_sparsity: float = 0.1,
) -> bytes:
    """Exports a pruned Keras model to a .tflite file whose pruned layers are packed: small and fast.

    Each pruned fully connected layer becomes one custom operator that computes on the packed weights
    (docs/format.md); `load_interpreter` runs it. Every other operator stays as the converter made it. A model that
    computes in another type (mixed_float16, float64, ...) is exported through a copy in float32.

    Args:
        model: a built Keras 3 model; it is not changed.
        path: where to write the file, atomically; None to only return the bytes.
        weights: how kept weights are quantized; ``Codebook()`` (4 bits) by default. A layer with at most
            ``2**bits - 1`` distinct non-zero weights is stored exactly.
        activations: "float32".
        target: "packed", or "stock" for the converter's plain float32 file.
        min_sparsity: a layer is pruned, and packed, when at least this fraction of its weights is exactly zero,
            0 to 1. With 0 every layer is packed that becomes smaller.

    Returns:
        The file's bytes.

    Raises:
        TypeError: not a Keras 3 model, ``weights`` is not a `Codebook`, or ``path`` is no path.
        ValueError: the model is not built, has NaN or infinite weights, pruned weights that are not zero any more, or
            nothing pruned; an argument is out of range; or the converter refused the model.
        FileNotFoundError: the path's folder does not exist.

    Example:
        >>> data = keras_prune.export_tflite(model, "model.tflite")  # doctest: +SKIP
    """
    weights = Codebook() if weights is None else weights
    checks.check_options(weights, min_sparsity, "export_tflite")
    if activations != "float32":
        raise ValueError(f"export_tflite: expected activations='float32', the only kind so far, got {activations!r}")
    if target not in TARGETS:
        raise ValueError(f"export_tflite: expected target to be one of {TARGETS}, got {target!r}")
    if path is not None:
        files.check_folder(path)
    checks.check_model(model, "export_tflite")
    checks.check_masks(model, "export_tflite")
    model = copies.as_float32(model, "export_tflite")
    data = converter.convert(model)
    if target == "packed":
        data, layers = _packed(model, data, weights, min_sparsity=min_sparsity)
        _check_packed(layers, min_sparsity)
    if path is not None:
        files.write_atomic(path, data)
    return data


def _packed(model: Any, data: bytes, weights: Codebook, *, min_sparsity: float) -> tuple[bytes, list[packed.Layer]]:
    """Packs the converter's file; first converts again from quantized kernels if anything else in it comes from them.

    The converter folds what stands before a layer into its kernel (a scale) and its bias (offset times kernel). That
    has to be the quantized kernel, or each output is off by the offset times all its weights' errors.
    """
    file = flatbuffer.read(data)
    choices = choose(file, weights, min_sparsity=min_sparsity)
    matches = [match for match in quantization.find(model, choices) if match.changes]
    if not all(match.quantized for match in matches) and _is_folded(model, file, choices, matches=matches):
        with quantization.assigned(matches):
            return pack(converter.convert(model), weights=weights, min_sparsity=min_sparsity)
    return _finish(file, choices, min_sparsity)


def _is_folded(model: Any, file: Any, choices: list[Choice], *, matches: list[quantization.Match]) -> bool:
    """Whether a constant beside the packed matrices may come from a kernel; not if it is just another variable."""
    matrices = {site.buffer for choice in choices if choice.packed is not None for site in choice.sites}
    kernels = {id(variable) for match in matches for variable, _ in match.changes}
    others = {_sorted_bytes(v.numpy()) for v in model.weights if id(v) not in kernels and v.dtype == "float32"}
    constants = flatbuffer.float_constants(file)
    folded = any(_sorted_bytes(values) not in others for buffer, values in constants.items() if buffer not in matrices)
    return folded or any(match.folded for match in matches)


def _sorted_bytes(values: np.ndarray) -> bytes:
    """The same for all orders of the values: the converter transposes and reshapes."""
    return hashlib.blake2b(np.sort(values + np.float32(0), axis=None).tobytes()).digest()  # -0 is 0


def pack(data: bytes, *, weights: Codebook, min_sparsity: float) -> tuple[bytes, list[packed.Layer]]:
    """Packs the pruned layers of a .tflite file.

    Args:
        data: the file's bytes.
        weights: how kept weights are quantized.
        min_sparsity: least fraction of exact zeros of a layer that is packed, 0 to 1.

    Returns:
        The new file's bytes, and what became of each layer.

    Raises:
        ValueError: not a .tflite file, or damaged.
    """
    file = flatbuffer.read(data)
    return _finish(file, choose(file, weights, min_sparsity=min_sparsity), min_sparsity)


def _finish(file: Any, choices: list[Choice], min_sparsity: float) -> tuple[bytes, list[packed.Layer]]:
    for name, shape, reason in pruned_but_dense(file, choices, min_sparsity=min_sparsity):
        _log.warning("%s %s is pruned but stays dense: %s", name, shape, reason)
    layers = pack_fully_connected(file, choices)
    tidy(file)
    for layer in layers:
        _log.info("%s %s: %s", layer.name, layer.shape, layer.reason or f"packed in {layer.num_bytes} bytes")
    return flatbuffer.write(file), layers


def _check_packed(layers: list[packed.Layer], min_sparsity: float) -> None:
    if any(layer.packed for layer in layers):
        return
    found = "\n".join(f"  {layer.name} {layer.shape}: {layer.reason}" for layer in layers)
    raise ValueError(
        f"export_tflite: expected a fully connected layer with at least min_sparsity={min_sparsity:g} of its weights "
        f"pruned, got\n{found or '  no fully connected layer'}\n"
        "prune the model first (keras_prune.PruneCallback or keras_prune.prune), pass min_sparsity=0 to pack dense "
        "layers too, or target='stock' for a plain file"
    )
