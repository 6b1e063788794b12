"""Keras model -> SavedModel whose folder holds only packed weights: the order of the steps, nothing else."""

from __future__ import annotations

import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune.layer_axes import output_axes
from keras_prune_export import checks, copies, dense_saved_model, folders, packed_layers, serving_graph
from keras_prune_export.activations import Activations
from keras_prune_export.progress import Progress
from keras_prune_export.schemes import Scheme, Schemes
from keras_prune_export.serving_graph import Expanded
from keras_prune_export.targets import saved_model as storage

TARGETS = ("stock", "packed")
_NAME = "export_saved_model"
_SMALL = 1 << 14  # bytes of a variable that shares a stream with others: less graph, and few bytes twice in memory
_log = logging.getLogger("keras_prune")


def export_saved_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    weights: Any = None,
    activations: str = "float32",
    target: str = "stock",
    min_sparsity: float = 0.1,
    representative_data: Any = None,
) -> pathlib.Path:
    """Exports a pruned Keras model as a SavedModel that is small on disk, for TensorFlow Serving and other hosts.

    The folder holds the packed weights alone. With target "stock" every server loads it: TensorFlow's own operators
    expand the weights, once, into ordinary variables, and the model computes what a dense SavedModel does, as fast and
    in as much memory, bit by bit. With target "packed" the pruned Dense layers compute on the packed weights, by our
    op: they are never expanded, and are faster at small batches. The host must have the op: it loads the library
    `keras_prune.native.op_path` by ``tf.load_op_library``, ``TF_LoadLibrary`` or ``keras_prune.ops.load`` before
    the model, or is built with it (docs/serving.md).

    Args:
        model: a built Keras 3 model of any kind that ``model.export`` takes; it is not changed. For target "packed" a
            Sequential or functional one, or any with `PackedDense` layers in it.
        path: the folder to write, atomically; a SavedModel that stands there is replaced whole.
        weights: how pruned weights are quantized: a `Codebook`, `Int8`, "float16", "lossless", or a mapping of layer
            names or regular expressions to these. None: ``Codebook(4)`` in Dense and EinsumDense layers and
            ``Codebook(8)`` in others. What is not pruned keeps every bit.
        activations: "float32"; or, with target "packed", "int8": the layers that compute on packed weights quantize
            each row of their activations, and their codebook, to int8 while they run, as in `export_tflite`.
        target: "stock" or "packed". Packed are Dense layers whose weights are pruned and become a `Codebook`, where
            that is faster at batch 1 by the costs that were measured; everything else is stored as for "stock".
        min_sparsity: a weight is pruned when at least this fraction of it is exactly zero, 0 to 1. With 0 every
            weight with two dimensions or more is quantized.
        representative_data: for int8 activations: some hundred typical inputs, (examples, ...), for several inputs a
            list or dict of them; or a function that yields such lists. Each layer then has one scale for good, the
            largest value that it gets / 127, as in `export_tflite`; without it each row has its own.

    Returns:
        The folder's path. It has the signature "serving_default", with the model's input names.

    Raises:
        TypeError: not a Keras 3 model, ``weights`` is none of these, or ``path`` is no path.
        ValueError: the model is not built, has NaN or infinite weights, pruned weights that are not zero any more, or
            nothing pruned, or no layer to compute on packed weights; a layer that stock TensorFlow cannot serve; an
            argument is out of range; or Keras refused to export the model.
        FileNotFoundError: the folder that ``path`` lies in does not exist.
        FileExistsError: something else than a SavedModel stands at ``path``.

    Example:
        >>> keras_prune.export_saved_model(model, "models/lenet/1")  # doctest: +SKIP
    """
    schemes = Schemes(weights, min_sparsity, _NAME)
    kind = _checked_activations(target, activations, representative_data)
    goal = folders.check_saved_model_path(path)
    checks.check_model(model, _NAME)
    checks.check_masks(model, _NAME)
    packed = packed_layers.PackedModel(model)
    if target == "packed":
        packed = packed_layers.pack(model, schemes, activations=kind)
    with tempfile.TemporaryDirectory(prefix="keras_prune_") as folder:
        dense = dense_saved_model.export(packed.model, folder)
        serving_graph.check_operators(dense.meta_graph.graph_def, model.name, target=target)
        entries = _entries(packed, dense, schemes)
        with folders.replaced(goal) as new:
            serving_graph.write(new, dense, entries)
    return goal


def _checked_activations(target: str, activations: str, representative_data: Any) -> Activations:
    if target not in TARGETS:
        raise ValueError(f"{_NAME}: expected target to be one of {TARGETS}, got {target!r}")
    kind = Activations(activations, representative_data, _NAME)
    if activations == "int8" and target == "stock":
        raise ValueError(
            f"{_NAME}: expected activations='float32' with target='stock', got 'int8': stock operators compute in "
            "float32; use target='packed', or export_tflite"
        )
    return kind


def _entries(
    packed: packed_layers.PackedModel, dense: dense_saved_model.DenseSavedModel, schemes: Schemes
) -> list[Expanded]:
    """What the asset will hold of each variable that the endpoint uses."""
    chooser = _Chooser(packed, schemes)
    chooser.check_keys(dense)
    small: dict[str, list[tuple[str, np.ndarray]]] = {}
    nodes, options, progress = [], [], Progress("keras_prune: packing", len(dense.variables))
    for variable in dense.variables:
        values = variable.values()
        scheme = chooser.scheme(variable.index, values)
        if scheme == "lossless" and values.nbytes <= _SMALL and not (values.ndim >= 2 and schemes.is_pruned(values)):
            small.setdefault(str(values.dtype), []).append((variable.node, values))
        else:
            nodes.append(variable.node)
            options.append(storage.candidates(chooser.quantized(variable.index, values)))
        progress.step()
    if not chooser.chose:
        raise ValueError(_nothing_pruned(schemes))
    chosen = storage.choose(options)
    for node, stored in zip(nodes, chosen, strict=True):
        how = f"{stored.kind.positions}, {stored.kind.values}"
        _log.info("%s %s: %s in %d bytes", node, stored.shape, how, len(stored.data))
    large = [Expanded((node,), stored, (stored.shape,)) for node, stored in zip(nodes, chosen, strict=True)]
    return large + [_together(group) for group in small.values()]


class _Chooser:
    """What to make of each variable of a model.

    Attributes:
        chose: whether a variable got a scheme, or none was asked for.
    """

    def __init__(self, packed: packed_layers.PackedModel, schemes: Schemes) -> None:
        self._variables, self._schemes, self._packed = packed.model.variables, schemes, packed.names or []
        self._matrices, self._axes = _fully_connected(packed.model), output_axes(packed.model)
        self.chose = packed.names is not None or schemes.weights == "lossless" or isinstance(schemes.weights, Mapping)

    def check_keys(self, dense: dense_saved_model.DenseSavedModel) -> None:
        """Refuses keys that mean no weight."""
        known = [self._variables[variable.index] for variable in dense.variables if variable.index is not None]
        self._schemes.check_keys(self._packed + [[variable.path] for variable in known if len(variable.shape) >= 2])

    def scheme(self, index: int | None, values: np.ndarray) -> Scheme:
        """A variable's scheme; whatever is no matrix or kernel of floats keeps its bits."""
        if index is None or values.ndim < 2 or "float" not in str(values.dtype):
            return "lossless"
        own = self._variables[index]
        scheme = self._schemes.of([own.path], values, is_fully_connected=id(own) in self._matrices)
        self.chose = self.chose or scheme != "lossless"
        return scheme

    def quantized(self, index: int | None, values: np.ndarray) -> storage.Weights:
        """A variable with the values of its scheme."""
        own = None if index is None else self._variables[index]
        try:
            return storage.quantize(values, self.scheme(index, values), self._axes.get(id(own), -1))
        except ValueError as error:
            raise ValueError(f"{_NAME}: {'a variable' if own is None else own.path}: {error}") from error


def _together(group: Sequence[tuple[str, np.ndarray]]) -> Expanded:
    """Small variables of one type, in one stream."""
    values = np.concatenate([array.reshape(-1) for _, array in group])
    stored = storage.exact(storage.Weights(values, str(values.dtype)))
    return Expanded(tuple(node for node, _ in group), stored, tuple(array.shape for _, array in group))


def _fully_connected(model: Any) -> set[int]:
    """Ids of the kernels of layers that the other targets make fully connected operators of."""
    import keras  # noqa: PLC0415

    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    layers = [layer for layer in copies.all_layers(model) if isinstance(layer, kinds)]
    return {id(variable) for layer in layers for variable in layer.weights if len(variable.shape) >= 2}


def _nothing_pruned(schemes: Schemes) -> str:
    return (
        f"{_NAME}: expected a weight with at least min_sparsity={schemes.min_sparsity:g} of it pruned, got none; prune "
        "the model first (keras_prune.PruneCallback or keras_prune.prune), pass min_sparsity=0 to quantize dense "
        "weights too, or weights='lossless' to keep every bit"
    )
