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
from keras_prune_export import checks, copies, dense_saved_model, folders, serving_graph
from keras_prune_export.progress import Progress
from keras_prune_export.schemes import Scheme, Schemes
from keras_prune_export.serving_graph import Expanded
from keras_prune_export.targets import saved_model as target

_NAME = "export_saved_model"
_SMALL = 1 << 14  # bytes of a variable that shares a stream with others: less graph, and few bytes twice in memory
_log = logging.getLogger("keras_prune")


def export_saved_model(
    model: Any, path: str | os.PathLike[str], *, weights: Any = None, min_sparsity: float = 0.1
) -> pathlib.Path:
    """Exports a pruned Keras model as a SavedModel that is small on disk and that every TensorFlow Serving loads.

    The folder holds the packed weights alone. When the model is loaded, TensorFlow's own operators expand them, once,
    into ordinary variables: it then computes what a dense SavedModel does, as fast and in as much memory, bit by bit.

    Args:
        model: a built Keras 3 model of any kind that ``model.export`` takes; it is not changed.
        path: the folder to write, atomically; a SavedModel that stands there is replaced whole.
        weights: how pruned weights are quantized: a `Codebook`, `Int8`, "float16", "lossless", or a mapping of layer
            names or regular expressions to these. None: ``Codebook(4)`` in Dense and EinsumDense layers and
            ``Codebook(8)`` in others. What is not pruned keeps every bit.
        min_sparsity: a weight is pruned when at least this fraction of it is exactly zero, 0 to 1. With 0 every
            weight with two dimensions or more is quantized.

    Returns:
        The folder's path. It has the signature "serving_default", with the model's input names.

    Raises:
        TypeError: not a Keras 3 model, ``weights`` is none of these, or ``path`` is no path.
        ValueError: the model is not built, has NaN or infinite weights, pruned weights that are not zero any more, or
            nothing pruned; a layer that stock TensorFlow cannot serve; an argument is out of range; or Keras refused
            to export the model.
        FileNotFoundError: the folder that ``path`` lies in does not exist.
        FileExistsError: something else than a SavedModel stands at ``path``.

    Example:
        >>> keras_prune.export_saved_model(model, "models/lenet/1")  # doctest: +SKIP
    """
    schemes = Schemes(weights, min_sparsity, _NAME)
    goal = folders.check_saved_model_path(path)
    checks.check_model(model, _NAME)
    checks.check_masks(model, _NAME)
    with tempfile.TemporaryDirectory(prefix="keras_prune_") as folder:
        dense = dense_saved_model.export(model, folder)
        serving_graph.check_operators(dense.meta_graph.graph_def, model.name)
        entries = _entries(model, dense, schemes)
        with folders.replaced(goal) as new:
            serving_graph.write(new, dense, entries)
    return goal


def _entries(model: Any, dense: dense_saved_model.DenseSavedModel, schemes: Schemes) -> list[Expanded]:
    """What the asset will hold of each variable that the endpoint uses."""
    chooser = _Chooser(model, schemes)
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
            options.append(target.candidates(chooser.quantized(variable.index, values)))
        progress.step()
    if not chooser.chose:
        raise ValueError(_nothing_pruned(schemes))
    chosen = target.choose(options)
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

    def __init__(self, model: Any, schemes: Schemes) -> None:
        self._variables, self._schemes = model.variables, schemes
        self._matrices, self._axes = _fully_connected(model), output_axes(model)
        self.chose = schemes.weights == "lossless" or isinstance(schemes.weights, Mapping)

    def check_keys(self, dense: dense_saved_model.DenseSavedModel) -> None:
        """Refuses keys that mean no weight."""
        known = [self._variables[variable.index] for variable in dense.variables if variable.index is not None]
        self._schemes.check_keys([[variable.path] for variable in known if len(variable.shape) >= 2])

    def scheme(self, index: int | None, values: np.ndarray) -> Scheme:
        """A variable's scheme; whatever is no matrix or kernel of floats keeps its bits."""
        if index is None or values.ndim < 2 or "float" not in str(values.dtype):
            return "lossless"
        own = self._variables[index]
        scheme = self._schemes.of([own.path], values, is_fully_connected=id(own) in self._matrices)
        self.chose = self.chose or scheme != "lossless"
        return scheme

    def quantized(self, index: int | None, values: np.ndarray) -> target.Weights:
        """A variable with the values of its scheme."""
        own = None if index is None else self._variables[index]
        try:
            return target.quantize(values, self.scheme(index, values), self._axes.get(id(own), -1))
        except ValueError as error:
            raise ValueError(f"{_NAME}: {'a variable' if own is None else own.path}: {error}") from error


def _together(group: Sequence[tuple[str, np.ndarray]]) -> Expanded:
    """Small variables of one type, in one stream."""
    values = np.concatenate([array.reshape(-1) for _, array in group])
    stored = target.exact(target.Weights(values, str(values.dtype)))
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
