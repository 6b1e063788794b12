"""Keras layers that compute on packed weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_prune import ops, sparse_format, tensor_format
from keras_prune.quantization import Codebook
from keras_prune.tensor_header import VERSION as CODED_VERSION

_COMPUTE_DTYPES = ("float32", "float16", "bfloat16")
_DEFAULT_WEIGHTS = Codebook()
_VERSION_AT = 4  # docs/format.md


def _all_pruned(units: int, input_dim: int) -> np.ndarray:
    """The packed bytes of a matrix without kept weights: a header only."""
    codes = np.zeros((units, input_dim), np.uint8)
    return np.frombuffer(sparse_format.encode(codes, np.zeros(1, np.float32)), np.uint8)


def _checked_shape(packed: np.ndarray) -> tuple[int, int]:
    """(units, inputs) of packed bytes of either version, every rule of which is checked."""
    if len(packed) <= _VERSION_AT or packed[_VERSION_AT] != CODED_VERSION:
        header = sparse_format.check(packed)
        return header.rows, header.cols
    coded = tensor_format.check(packed)
    if coded.values != "codebook":
        raise sparse_format.FormatError(
            f"packed weights: expected a codebook, got {coded.values} values; pack the layer with a Codebook"
        )
    return coded.rows, coded.cols


@keras.saving.register_keras_serializable(package="keras_prune")
class PackedDense(keras.layers.Layer):
    """A dense layer for inference on packed weights: activation(x · W + bias), the dense W never being formed.

    The packed bytes are a non-trainable weight of the layer and are saved with it; the bias stays trainable and the
    gradient flows to the layers before. Make it by `from_dense` or `from_packed`. A layer made by its constructor alone
    has every weight pruned until bytes are loaded into it; ``num_bytes`` says how many there will be.

    It computes in float32 on the CPU and casts the result to the layer's compute type. It needs Keras's TensorFlow
    backend and does not run under XLA (``jit_compile=True``); ``jit_compile="auto"`` knows that.

    Args:
        units: outputs of the layer, at least 1.
        activation: as for ``keras.layers.Dense``.
        use_bias: whether a bias is added.
        num_bytes: length of the packed weights; by default that of a matrix without kept weights.
        activations: "float32"; or "int8": each row of the inputs is quantized while the layer computes, and so are the
            weights' values (`keras_prune.ops.relative_index_matmul`).
        x_scale: for "int8": one step of the inputs, from calibration: the largest typical |x| / 127; None: of each row.
        **kwargs: ``name``, ``dtype`` (float32, or mixed float16 or bfloat16), ``trainable`` and others of every layer.

    Input shape: (batch, ..., inputs). Output shape: (batch, ..., units).

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
        ValueError: an argument out of range, or a type that the kernels do not compute.

    Example:
        >>> dense = keras.layers.Dense(3)
        >>> dense.build((None, 4))
        >>> PackedDense.from_dense(dense)(np.ones((2, 4), np.float32)).shape
        TensorShape([2, 3])
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        *,
        num_bytes: int | None = None,
        activations: str = "float32",
        x_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"PackedDense: expected Keras's tensorflow backend, got {keras.backend.backend()!r}; set "
                "KERAS_BACKEND=tensorflow before keras is imported, or keep the Dense layer on this backend"
            )
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"PackedDense: expected units of at least 1, got {units!r}")
        if num_bytes is not None and num_bytes < sparse_format.HEADER.size:
            raise ValueError(
                f"PackedDense: expected num_bytes of at least {sparse_format.HEADER.size}, got {num_bytes}"
            )
        try:
            ops.check_arithmetic(activations, x_scale)
        except ValueError as error:
            raise ValueError(f"PackedDense: {error}") from None
        if self.compute_dtype not in _COMPUTE_DTYPES:
            raise ValueError(f"PackedDense: expected a compute type of {_COMPUTE_DTYPES}, got {self.compute_dtype!r}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.num_bytes = num_bytes
        self.activations = activations
        self.x_scale = None if x_scale is None else float(x_scale)
        self.supports_masking = True
        self.supports_jit = False
        self.input_spec = keras.InputSpec(min_ndim=2)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for inputs of this shape."""
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(f"PackedDense: expected a known last dimension, got input shape {input_shape}")
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: input_dim})
        initial = _all_pruned(self.units, input_dim) if self.num_bytes is None else np.zeros(self.num_bytes, np.uint8)
        self.num_bytes = len(initial)
        self.packed = self.add_weight(
            name="packed",
            shape=initial.shape,
            dtype="uint8",
            initializer=lambda shape, dtype: keras.ops.convert_to_tensor(initial, dtype),
            trainable=False,
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros") if self.use_bias else None
        self._input_dim = input_dim

    def call(self, inputs: Any) -> Any:
        """Computes on (batch, ..., inputs)."""
        if "complex" in keras.backend.standardize_dtype(inputs.dtype):
            raise ValueError(f"PackedDense: expected real inputs, got {inputs.dtype}: the kernels compute in float32")
        x = keras.ops.cast(inputs, "float32")
        packed = keras.ops.convert_to_tensor(self.packed)
        arithmetic: Any = {"activations": self.activations, "x_scale": self.x_scale}
        y = ops.relative_index_matmul(x, packed, units=self.units, input_dim=self._input_dim, **arithmetic)
        if self.bias is not None:
            y = keras.ops.add(y, keras.ops.cast(self.bias, "float32"))
        return self.activation(keras.ops.cast(y, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape with ``units`` as its last dimension."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for ``from_config``."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "num_bytes": self.num_bytes,
            "activations": self.activations,
            "x_scale": self.x_scale,
        }

    @classmethod
    def from_packed(cls, packed: Any, *, bias: Any = None, activation: Any = None, **kwargs: Any) -> PackedDense:
        """Makes a built layer from packed bytes.

        Args:
            packed: (num_bytes,) uint8, or bytes, bytearray or memoryview, as ``keras_prune.ops.pack_weights``
                makes them, or `keras_prune.tensor_format` with a codebook (version 2: fewer bytes).
            bias: (units,) float, or None for a layer without bias.
            activation: as for ``keras.layers.Dense``.
            **kwargs: ``activations``, ``x_scale``, and ``name``, ``dtype`` and others of every layer.

        Returns:
            A layer that computes with these weights.

        Raises:
            sparse_format.FormatError: the bytes are truncated, corrupt or of another version.
            TypeError: not bytes at all.
            ValueError: the bias does not fit.
        """
        is_bytes = isinstance(packed, bytes | bytearray | memoryview)
        array = sparse_format.as_array(packed if is_bytes else ops.to_numpy(packed))
        units, input_dim = _checked_shape(array)
        layer = cls(units, activation, bias is not None, num_bytes=len(array), **kwargs)
        layer.build((None, input_dim))
        layer.packed.assign(array)
        if layer.bias is not None:
            layer.bias.assign(bias)
        return layer

    @classmethod
    def from_dense(
        cls,
        dense: Any,
        *,
        weights: Codebook = _DEFAULT_WEIGHTS,
        activations: str = "float32",
        x_scale: float | None = None,
    ) -> PackedDense:
        """Packs a built ``keras.layers.Dense``: its zeros are dropped, its other weights quantized.

        Args:
            dense: the layer; its name, activation, bias and dtype policy are kept.
            weights: what to make of the weights.
            activations: "float32" or "int8".
            x_scale: for "int8": one step of the inputs, or None.

        Returns:
            A layer that computes with the quantized kernel.

        Raises:
            TypeError: not a Dense layer.
            ValueError: a Dense layer that is not built, or is quantized already.
        """
        if not isinstance(dense, keras.layers.Dense):
            raise TypeError(
                f"PackedDense.from_dense: expected a keras.layers.Dense, got {type(dense).__name__}; "
                "take a wrapped layer out of its wrapper first (keras_prune.strip)"
            )
        if not dense.built or getattr(dense, "quantization_mode", None):
            raise ValueError(
                f"PackedDense.from_dense: expected a built Dense layer in floating point, got {dense.name!r}, which is "
                "not built or was quantized by Keras; build it, or start from the model before quantize()"
            )
        packed = ops.pack_weights(dense.kernel, weights=weights)
        bias = dense.bias if dense.use_bias else None
        kwargs = {"activations": activations, "x_scale": x_scale, "name": dense.name, "dtype": dense.dtype_policy}
        return cls.from_packed(packed, bias=bias, activation=dense.activation, **kwargs)
