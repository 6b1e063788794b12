"""A copy of a Keras model whose pruned Dense layers compute on packed weights, by our TensorFlow op."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune import tensor_format, value_coding
from keras_prune.quantization import Codebook
from keras_prune_export import copies, keras_calibration, kernel_costs
from keras_prune_export.activations import Activations
from keras_prune_export.schemes import Schemes


@dataclasses.dataclass(frozen=True)
class PackedModel:
    """A model that computes on packed weights.

    Attributes:
        model: the copy; the model itself where it holds such layers and none was added.
        names: for each layer that was packed, what its kernel was called; None where that was not asked for.
    """

    model: Any
    names: list[list[str]] | None = None


def pack(model: Any, schemes: Schemes, *, activations: Activations) -> PackedModel:
    """Packs the Dense layers that are pruned, become a codebook, and are not faster dense.

    With "lossless" those become one that have few distinct values, as `keras_prune.quantize` makes them.

    Which are faster dense, at batch 1, says the model of measured costs that `export_tflite` uses: our kernel for this
    kind of activations against dense float32, which TensorFlow computes for either kind.

    Args:
        model: a built Keras 3 model, which is not changed.
        schemes: the ``weights=`` argument.
        activations: of the layers that are packed; with representative data each gets one step of its inputs.

    Returns:
        The copy.

    Raises:
        ValueError: there is no such layer, and no `PackedDense` either; the model is no Sequential or functional one;
            or the representative data does not fit it.
    """
    from keras_prune.layers import PackedDense  # noqa: PLC0415 (imports TensorFlow)

    every = copies.all_layers(model)
    found = {id(layer): _packed_bytes(layer, schemes, activations.kind) for layer in every}
    packed = {key: data for key, data in found.items() if data is not None}
    has_own = any(isinstance(layer, PackedDense) for layer in every)
    if not packed and (activations.kind == "int8" or not has_own):
        raise ValueError(
            f"{schemes.function}: expected a Dense layer for target='packed' of which so much is pruned, at least "
            f"min_sparsity={schemes.min_sparsity:g}, that packed weights are faster, and whose weights are a Codebook "
            f"(or 'lossless' and few different ones), got none in {model.name!r}; prune the model first, or use "
            "target='stock'"
        )
    if not packed:
        return PackedModel(model, [])
    names = [[layer.kernel.path] for layer in every if id(layer) in packed]
    result, layers = _copy(model, packed, name=schemes.function)
    if activations.kind == "int8":
        _make_int8(result, layers, activations)
    return PackedModel(result, names)


def _make_int8(model: Any, layers: list[Any], activations: Activations) -> None:
    """The layers of a model that computes in float32, and was not traced yet, compute with int8 activations."""
    scales: list[float | None] = [None] * len(layers)
    if activations.representative_data is not None:
        scales = [*keras_calibration.input_scales(model, layers, activations)]
    for layer, scale in zip(layers, scales, strict=True):
        layer.activations, layer.x_scale = activations.kind, scale


def _packed_bytes(layer: Any, schemes: Schemes, activations: str) -> bytes | None:
    """A layer's kernel as the op reads it; None for a layer that stays as it is: dense float32."""
    import keras  # noqa: PLC0415

    if type(layer) is not keras.layers.Dense or not layer.built or getattr(layer, "quantization_mode", None):
        return None
    values = np.asarray(layer.kernel.numpy(), np.float32)
    scheme = schemes.of([layer.kernel.path], values, is_fully_connected=True)
    if not schemes.is_pruned(values):
        return None
    few = scheme.fit(values.T) if isinstance(scheme, Codebook) else None
    if scheme == "lossless":
        few = value_coding.few_values(np.ascontiguousarray(values.T))
    if few is None:
        return None
    kept, codebook = int(np.count_nonzero(values)), len(few[1])
    work = kernel_costs.Work(values.shape[1], values.shape[0], kept, codebook=codebook)
    pays = kernel_costs.packed_pays([work], activations, dense="dense")
    return tensor_format.encode_codes(*few) if pays else None


def _copy(model: Any, packed: dict[int, bytes], *, name: str) -> tuple[Any, list[Any]]:
    """The copy, with every value of the model, and its packed layers."""
    import keras  # noqa: PLC0415

    pairs: list[tuple[Any, Any]] = []
    made: list[Any] = []

    def cloned(layer: Any) -> Any:
        if id(layer) in packed:
            made.append(_packed_dense(layer, packed[id(layer)]))
            return made[-1]
        result = type(layer).from_config(layer.get_config())
        if isinstance(layer, keras.Layer):  # else an operation, such as a sum
            pairs.append((layer, result))
        return result

    try:
        result = keras.models.clone_model(model, clone_function=cloned, recursive=True)
        for source, target in pairs:
            copies.copy_weights(source, target)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ValueError(
            f"{name}: expected a Sequential or functional model for target='packed', whose copy can be made from its "
            f"configuration, got {model.name!r}: {first}; put PackedDense.from_dense(layer) in the place of its Dense "
            "layers yourself, or use target='stock'"
        ) from error
    return result, made


def _packed_dense(layer: Any, packed: bytes) -> Any:
    from keras_prune.layers import PackedDense  # noqa: PLC0415

    bias = layer.bias if layer.use_bias else None
    kwargs = {"name": layer.name, "dtype": layer.dtype_policy}
    return PackedDense.from_packed(packed, bias=bias, activation=layer.activation, **kwargs)
