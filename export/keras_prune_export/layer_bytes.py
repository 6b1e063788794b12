"""Where the bytes of a .tflite file are: each layer's weights by part, and the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_prune_export import files, flatbuffer
from keras_prune_export.entropy_bound import bound_bytes
from keras_prune_export.layer_report import packed_weights
from keras_prune_export.targets import packed
from keras_prune_export.text_table import optional, text_table
from keras_prune_export.transformations import constants
from keras_prune_export.transformations.densify import densify

CONSTANTS, TABLES = "biases, other constants", "flatbuffer"  # the rows that are no layer
_PARTS = ("positions", "codes", "codebook", "low_bits", "header", "other")
_HEADER = ("layer", "form", "shape", "kept", "density", "positions", "codes", "codebook", "low bits", "header")


@dataclasses.dataclass(frozen=True)
class LayerBytes:
    """The bytes of one layer's weights, or of what is no layer.

    Attributes:
        name: of the weights; `CONSTANTS` or `TABLES` for the last two rows.
        form: "compute" or "expand" for packed weights, "stock" for others, empty for what is no layer.
        shape: of the dense weights.
        kept: weights that are not zero.
        positions: bytes of the gaps or the bitmap, or of the index lists of TFLite's own sparse tensors.
        codes: bytes of the codes, integers or exponents of kept weights.
        codebook: bytes of the codebook or the scales.
        low_bits: bytes of the floats' other bits.
        header: bytes of the packed buffer's head.
        other: bytes that are not packed.
        entropy_bound: `entropy_bound.bound_bytes` of positions, codes and low bits; None where nothing is packed.
        activations: of a layer that computes on packed weights, "float32" or "int8", which the table shows; else empty.
    """

    name: str
    form: str = ""
    shape: tuple[int, ...] = ()
    kept: int = 0
    positions: int = 0
    codes: int = 0
    codebook: int = 0
    low_bits: int = 0
    header: int = 0
    other: int = 0
    entropy_bound: float | None = None
    activations: str = ""

    @property
    def num_bytes(self) -> int:
        """The sum of the parts."""
        return sum(getattr(self, part) for part in _PARTS)

    @property
    def num_weights(self) -> int:
        """Weights of the layer, zeros included; 0 for what is no layer."""
        return math.prod(self.shape) if self.form else 0

    def to_dict(self) -> dict[str, Any]:
        """The attributes and ``num_bytes``, for JSON."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "num_bytes": self.num_bytes}

    def row(self) -> list[str]:
        """The cells of `bytes_table`."""
        size = "x".join(map(str, self.shape))
        share = f"{self.kept / self.num_weights:.2%}" if self.num_weights else ""
        kept = f"{self.kept:,}" if self.num_weights else ""
        numbers = [f"{value:,}" for value in (*(getattr(self, part) for part in _PARTS), self.num_bytes)]
        form = f"{self.form} int8" if self.activations == "int8" else self.form
        return [self.name, form, size, kept, share, *numbers, optional(self.entropy_bound, ",.0f")]


def layer_bytes(model: Any) -> tuple[LayerBytes, ...]:
    """Splits a .tflite file into its layers' weights, the other constants and the flatbuffer around them.

    Args:
        model: path or bytes.

    Returns:
        A row for each packed weight and for each stock one, shared ones once, then `CONSTANTS` and `TABLES` (tables,
        names, metadata, alignment, appended files); the sum of their ``num_bytes`` is the file's size.

    Raises:
        FormatError: packed weights that are damaged.
        ValueError: not a .tflite file, or damaged.
    """
    data = files.read_tflite(model)
    file = flatbuffer.read(data)
    rows = [*_packed_rows(file), *_stock_rows(file)]
    used = {tensor.buffer for graph in file.subgraphs for tensor in graph.tensors or ()}
    sizes = sum(len(file.buffers[index].data) for index in used if file.buffers[index].data is not None)
    listed = sum(_index_bytes(tensor.sparsity) for tensor in _sparse_weights(file))
    named = sum(row.num_bytes for row in rows)
    if sizes + listed > len(data):
        raise ValueError(
            f".tflite file: constants of {sizes + listed} bytes in a file of {len(data)}: some share their bytes, so "
            "that bytes by layer have no meaning; write the file again with keras_prune.pack_tflite"
        )
    return (
        *rows,
        LayerBytes(CONSTANTS, other=sizes + listed - named),
        LayerBytes(TABLES, other=len(data) - sizes - listed),
    )


def bytes_table(rows: Sequence[LayerBytes]) -> str:
    """The rows of `layer_bytes` and their sum, as a table."""
    sums = {part: sum(getattr(row, part) for row in rows) for part in _PARTS}
    bounds = [row.entropy_bound for row in rows if row.entropy_bound is not None]
    total = LayerBytes("total", **sums, entropy_bound=sum(bounds) if bounds else None)
    header = [*_HEADER, "other", "bytes", "entropy bound"]
    return text_table([header, *(row.row() for row in [*rows, total])])


def _packed_rows(file: Any) -> list[LayerBytes]:
    return [_packed_row(layer, buffer) for layer, buffer in packed_weights(file)]


def _packed_row(layer: packed.Layer, buffer: np.ndarray) -> LayerBytes:
    parts = (layer.gap_bytes, layer.code_bytes, layer.codebook_bytes, layer.low_bytes, layer.header_bytes)
    weights = (layer.name, layer.form, layer.shape, layer.kept)
    return LayerBytes(*weights, *parts, entropy_bound=bound_bytes(buffer), activations=layer.activations)


def _stock_rows(file: Any) -> list[LayerBytes]:
    return [_stock_row(file, constant) for constant in _weights(file)]


def _weights(file: Any) -> list[constants.Constant]:
    return [found for found in constants.find(file) if constants.is_weight(file, found.views[-1])]


def _sparse_weights(file: Any) -> list[Any]:
    return [found.tensor for found in _weights(file) if found.tensor.sparsity is not None]


def _stock_row(file: Any, constant: constants.Constant) -> LayerBytes:
    tensor = constant.tensor
    is_sparse = tensor.sparsity is not None
    values = densify(file, tensor) if is_sparse else flatbuffer.constant(file, tensor)
    points = getattr(tensor.quantization, "zeroPoint", None)
    zero = int(points[0]) if values.dtype.kind in "iu" and points is not None and len(points) else 0
    name = next(filter(None, reversed(constant.name.split(";"))), "")
    return LayerBytes(
        *(name, "stock", constant.shape, int(np.count_nonzero(values != zero))),
        positions=_index_bytes(tensor.sparsity),
        other=len(file.buffers[constant.buffer].data),
    )


def _index_bytes(sparsity: Any) -> int:
    """Of the positions of a tensor in TFLite's own sparse form."""
    vectors = [
        vector.values
        for level in getattr(sparsity, "dimMetadata", None) or ()
        for vector in (level.arraySegments, level.arrayIndices)
        if vector is not None and vector.values is not None
    ]
    return sum(np.asarray(vector).nbytes for vector in vectors)
