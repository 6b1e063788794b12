"""What the packed file will compute, in Keras."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_prune import sparse_format
from keras_prune.quantize import Codebook
from keras_prune_export import converter
from keras_prune_export.targets import packed as target
from keras_prune_export.tflite import check_options


def quantize(model: Any, weights: Codebook | None = None, *, min_sparsity: float = 0.1, in_place: bool = False) -> Any:
    """Gives the pruned Dense kernels of a model the values that its packed file computes with.

    Layers are chosen as `export_tflite` chooses them; exporting the result gives the same packed bytes.

    Args:
        model: a built Keras 3 model.
        weights: how kept weights are quantized; ``Codebook()`` (4 bits) by default. Zeros stay exactly zero.
        min_sparsity: a kernel is pruned when at least this fraction of it is exactly zero, 0 to 1.
        in_place: change and return ``model`` itself; by default a copy.

    Returns:
        The model with quantized kernels.

    Raises:
        TypeError: not a Keras 3 model, or ``weights`` is not a `Codebook`.
        ValueError: the model is not built, cannot be copied, or an argument is out of range.

    Example:
        >>> quantized = keras_prune.quantize(model, keras_prune.Codebook(bits=4))  # doctest: +SKIP
    """
    weights = Codebook() if weights is None else weights
    check_options(weights, min_sparsity, "quantize")
    converter.check_model(model, "quantize")
    result = model if in_place else _copy(model)
    for layer in _dense_layers(result):
        kernel = np.asarray(layer.kernel.numpy(), np.float32)
        packed, _ = target.store(np.ascontiguousarray(kernel.T), weights, min_sparsity)
        if packed is not None:
            layer.kernel.assign(sparse_format.to_dense(packed).T)
    return result


def _copy(model: Any) -> Any:
    import keras  # noqa: PLC0415

    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    except Exception as error:
        raise ValueError(
            f"quantize: the model {model.name!r} cannot be copied ({error}); copy it yourself and pass in_place=True"
        ) from error
    return copy


def _dense_layers(layer: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """All Dense layers, those inside models and wrappers included, each once."""
    import keras  # noqa: PLC0415

    seen = set() if seen is None else seen
    if id(layer) in seen:
        return
    seen.add(id(layer))
    if isinstance(layer, keras.layers.Dense):
        yield layer
    for child in [*getattr(layer, "layers", ()), *filter(None, [getattr(layer, "layer", None)])]:
        yield from _dense_layers(child, seen)
