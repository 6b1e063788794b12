"""A .tflite file -> the same with packed weights: the order of the steps, nothing else."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune_export import associated, calibration, files, flatbuffer
from keras_prune_export.activations import Activations
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed
from keras_prune_export.transformations.choose import Choice, choose, for_int8
from keras_prune_export.transformations.computing import pack_computing
from keras_prune_export.transformations.constants import remove_decoders
from keras_prune_export.transformations.dense_int8 import make_int8
from keras_prune_export.transformations.int8_activations import Place, computing, set_activations
from keras_prune_export.transformations.tidy import shorten_names, tidy
from keras_prune_export.transformations.unpack import unpack

_FLOAT32 = Activations()
_log = logging.getLogger("keras_prune")


def pack_tflite(
    tflite: str | os.PathLike[str] | bytes,
    path: str | os.PathLike[str] | None = None,
    *,
    weights: Any = "lossless",
    activations: str = "float32",
    min_sparsity: float = 0.1,
    representative_data: Any = None,
) -> bytes:
    """Packs the weights of any .tflite file, so that it is smaller; `load_interpreter` runs it.

    Weights of all operators, in float32, float16, int8, uint8 and TFLite's own sparse form, are stored entropy-coded
    (docs/format.md). Fully connected layers and convolutions on a codebook compute on them where that is faster; for
    other operators they are expanded once, when the file is loaded, so that results are those of the ordinary kernels.
    What packing would not make at least an eighth smaller stays as it is. Subgraphs, signatures, metadata and
    associated files are kept.

    Args:
        tflite: path or bytes of the file.
        path: where to write the result, atomically; None to only return the bytes.
        weights: "lossless": every weight keeps every bit (a pruned one, the sign of its zero excepted). Else a
            `Codebook`, `Int8()` or "float16" for all pruned weights, or a dict of layer names or regular expressions to
            these; None as in `export_tflite`. Weights that are integers already always keep their bits.
        activations: "float32": those of the file stay as they are. "int8": fully connected layers and convolutions that
            compute on packed weights quantize their activations while they run, those on which the runtime's dense
            int8 kernels are faster become these, and convolutions that are faster in float32 stay so, as in
            `export_tflite`.
        min_sparsity: weights are pruned when at least this fraction is exactly zero, 0 to 1; with 0 all are.
        representative_data: for int8 activations, as in `export_tflite`: one scale a layer, for good.

    Returns:
        The new file's bytes, never more than the old one's: where nothing is gained, those of the old file without
        what nobody reads.

    Raises:
        FileNotFoundError: no such file, or the folder of ``path`` does not exist.
        TypeError: ``weights`` is none of these, or ``tflite`` neither path nor bytes.
        ValueError: not a .tflite file, damaged, or packed already; an argument is out of range; or no layer can compute
            with int8 activations.

    Example:
        >>> data = keras_prune.pack_tflite("model.tflite", "packed.tflite")  # doctest: +SKIP
    """
    schemes = Schemes(weights, min_sparsity, "pack_tflite")
    kind = Activations(activations, representative_data, "pack_tflite")
    if path is not None:
        files.check_folder(path)
    data, _ = pack(files.read_tflite(tflite), schemes, activations=kind)
    if path is not None:
        files.write_atomic(path, data)
    return data


def pack(
    data: bytes,
    schemes: Schemes,
    *,
    names: Mapping[int, Sequence[str]] | None = None,
    activations: Activations = _FLOAT32,
) -> tuple[bytes, list[packed.Layer]]:
    """Packs the weights of a .tflite file, and says what became of each.

    Args:
        data: the file's bytes.
        schemes: how weights are quantized.
        names: what else a buffer's weights are called, such as their variable's path in Keras.
        activations: of the operators that compute on packed weights.

    Returns:
        The new file's bytes, and what became of each constant that is a weight or large.

    Raises:
        ValueError: not a .tflite file, damaged, or packed already.
    """
    file = load(data, schemes.function)
    return finish(file, choose(file, schemes, names), data, activations=activations)


def load(data: bytes, name: str) -> Any:
    """Reads a file to be packed, without what nobody reads.

    Args:
        data: the file's bytes.
        name: of the public function, for the error.

    Returns:
        ``ModelT`` object.

    Raises:
        ValueError: not a .tflite file, damaged, or packed already.
    """
    file = flatbuffer.read(data)
    codes = {flatbuffer.text(code.customCode) for code in file.operatorCodes or ()}
    if codes & {*packed.STANDS_FOR, packed.EXPAND}:
        raise ValueError(f"{name}: expected a file that is not packed yet, got one that is; pack the original")
    tidy(file)
    return file


def finish(
    file: Any, choices: list[Choice], data: bytes, *, activations: Activations = _FLOAT32
) -> tuple[bytes, list[packed.Layer]]:
    """Does what was chosen, and writes the file.

    Args:
        file: what `load` gave, edited in place.
        choices: for this object.
        data: the bytes that it was read from.
        activations: of the operators that compute on packed weights.

    Returns:
        As `pack`.

    Raises:
        ValueError: int8 activations of a file without such an operator, or their data does not fit.
    """
    if activations.kind == "int8":
        choices = for_int8(file, choices)
    shorten_names(file)
    archive = associated.archive(data)
    plain = min(associated.append(flatbuffer.write(file), *archive), data, key=len)
    edit(file, choices)
    result = flatbuffer.write(file)
    if activations.kind == "int8":
        result = _with_int8(file, result, choices, activations=activations)
    result = associated.append(result, *archive)
    gained = activations.kind == "int8" or len(result) < len(plain)  # a plain file would compute in float32
    layers = [_layer(choice, gained) for choice in choices]
    for layer, choice in zip(layers, choices, strict=True):
        _report(layer, choice)
    return (result if gained else plain), layers


def _with_int8(file: Any, result: bytes, choices: list[Choice], *, activations: Activations) -> bytes:
    """The file that computes with int8 activations; calibrated with what the float32 file gives each layer."""
    if not any(choice.is_int8 for choice in choices):
        found = "\n".join(f"  {choice.name} {choice.shape}: {choice.reason}" for choice in choices)
        raise ValueError(
            f"{activations.function}: expected a layer that computes on packed weights for "
            f"activations='int8', got\n{found or '  no weights'}\n"
            "leave activations='float32'; or, for integers in all operators, export the Keras model with "
            "weights=keras_prune.Int8() and representative_data"
        )
    places = _int8_places(file, choices)
    is_static = activations.representative_data is not None
    scales = calibration.input_scales(result, activations, places=places) if is_static else None
    set_activations(file, "int8", scales, places=places)
    return flatbuffer.write(file)


def _int8_places(file: Any, choices: list[Choice]) -> set[Place]:
    """The operators on packed weights that are to multiply integers."""
    chosen = [choice.view for choice in choices if choice.view and choice.activations == "int8"]
    operators = {id(reader.op) for view in chosen for reader in view.readers}
    return {place for place, op in computing(file) if id(op) in operators}


def edit(file: Any, choices: list[Choice]) -> None:
    """Does what was chosen.

    Args:
        file: what `load` gave, edited in place.
        choices: for this object.
    """
    chosen = [(choice.form, choice.view, choice.packed) for choice in choices if choice.view and choice.packed]
    for form, view, data in chosen:
        if form == "compute":
            pack_computing(file, view, data)
    unpack(file, [(view, data) for form, view, data in chosen if form == "expand"])
    remove_decoders(file, [view for _, view, _ in chosen])
    for choice in choices:
        if choice.view and choice.int8_scale is not None:
            make_int8(file, choice.view, choice.int8_scale)
    tidy(file)


def _layer(choice: Choice, gained: bool) -> packed.Layer:
    if choice.packed is not None and gained:
        layer = packed.describe(choice.name, choice.packed, form=choice.form, reason=choice.reason, shape=choice.shape)
        return dataclasses.replace(layer, activations=choice.activations if choice.form == "compute" else "")
    reason = choice.reason if choice.packed is None else "the whole file would not become smaller"
    return packed.Layer(choice.name, choice.shape, reason=reason)


def _report(layer: packed.Layer, choice: Choice) -> None:
    """Logs what became of a layer; a warning for pruned weights that stay for another reason than their size."""
    if choice.blocked and _is_pruned(choice):
        _log.warning("%s %s is pruned but stays dense: %s", layer.name, layer.shape, layer.reason)
    else:
        size = f" in {layer.num_bytes} bytes" if layer.packed else ""
        _log.info("%s %s: %s%s, %s", layer.name, layer.shape, layer.form, size, layer.reason)


def _is_pruned(choice: Choice) -> bool:
    """Matrices and kernels only; what is all zero is a start value, not a weight."""
    values = choice.values
    if values is None or values.ndim < 2:
        return False
    return 0 < int(np.count_nonzero(values)) <= values.size / 2
