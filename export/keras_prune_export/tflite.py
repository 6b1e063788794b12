"""Keras model -> .tflite file with packed layers: the order of the steps, nothing else."""

from __future__ import annotations

import logging
import os
from typing import Any

from keras_prune.quantization import Codebook
from keras_prune_export import checks, converter, files, flatbuffer, quantization
from keras_prune_export.targets import packed
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
    (docs/format.md); `load_interpreter` runs it. Every other operator stays as the converter made it.

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
        TypeError: not a Keras 3 model, or ``weights`` is not a `Codebook`.
        ValueError: the model is not built, nothing in it is pruned, an argument is out of range, or the converter
            refused the model.
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
    checks.check_model(model, "export_tflite")
    if path is not None:
        files.check_folder(path)
    data = converter.convert(model)
    if target == "packed":
        data, layers = _packed(model, data, weights, min_sparsity=min_sparsity)
        _check_packed(layers, min_sparsity)
    if path is not None:
        files.write_atomic(path, data)
    return data


def _packed(model: Any, data: bytes, weights: Codebook, *, min_sparsity: float) -> tuple[bytes, list[packed.Layer]]:
    """Packs the converter's file; converts again where it folded a neighbour into a kernel that will be quantized.

    A folded offset is in the bias as offset times kernel. It has to be the quantized kernel, or each output is off by
    the offset times all its weights' errors.
    """
    file = flatbuffer.read(data)
    choices = choose(file, weights, min_sparsity=min_sparsity)
    matches = quantization.find(model, choices)
    if any(match.folded for match in matches):
        with quantization.assigned(matches):
            return pack(converter.convert(model), weights=weights, min_sparsity=min_sparsity)
    return _finish(file, choices)


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
    return _finish(file, choose(file, weights, min_sparsity=min_sparsity))


def _finish(file: Any, choices: list[Choice]) -> tuple[bytes, list[packed.Layer]]:
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
