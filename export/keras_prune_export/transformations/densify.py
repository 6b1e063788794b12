"""TFLite's own sparse tensors -> dense values (the schema's SparsityParameters, after https://arxiv.org/abs/1804.10112)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema

_MOST_ZEROS = 2**14  # for one stored value: keeps what a small hostile file makes us allocate small, too
_FREE_WEIGHTS = 2**20


def densify(model: Any, tensor: Any) -> np.ndarray:
    """The dense values of a sparse tensor.

    Level i of the metadata runs over dimension ``traversalOrder[i]``: the tensor's dimensions first, divided by the
    blocks' sides, then the sides of the blocks. A dense level has every index, a sparse one those listed.

    Args:
        model: ``ModelT`` object.
        tensor: ``TensorT`` object with sparsity parameters and constant data.

    Returns:
        The values, in the tensor's shape and type.

    Raises:
        ValueError: the metadata contradicts itself, the shape, or the data.
    """
    try:
        return _densify(model, tensor)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        name = flatbuffer.text(tensor.name)
        raise ValueError(f".tflite file: sparse tensor {name!r} is damaged: {error}; make the file again") from error


def _densify(model: Any, tensor: Any) -> np.ndarray:
    shape = flatbuffer.indices(tensor.shape)
    stored = flatbuffer.values(model, tensor)
    size = math.prod(shape)
    if min(shape, default=1) < 1 or size > _FREE_WEIGHTS + _MOST_ZEROS * len(stored):
        raise ValueError(f"shape {shape} for {len(stored)} stored values")
    offsets = _offsets(_levels(tensor.sparsity, shape), limit=max(len(stored), _longest_list(tensor.sparsity)))
    if len(offsets) != len(stored):
        raise ValueError(f"{len(offsets)} positions for {len(stored)} stored values")
    dense = np.zeros(size, stored.dtype)
    dense[offsets] = stored
    return dense.reshape(shape)


def _levels(sparsity: Any, shape: list[int]) -> list[tuple[Any, int, int]]:
    """For each level its metadata, its number of indices, and how far apart two neighbours are in the dense values."""
    order, block_map = flatbuffer.indices(sparsity.traversalOrder), flatbuffer.indices(sparsity.blockMap)
    rank, metadata = len(shape), list(sparsity.dimMetadata or ())
    if sorted(order[:rank]) != [*range(rank)] or sorted(order[rank:]) != [*range(rank, rank + len(block_map))]:
        raise ValueError(f"traversal order {order} for {rank} dimensions and {len(block_map)} blocks")
    if len(metadata) != len(order) or sorted(set(block_map)) != sorted(block_map) or {*block_map} - {*range(rank)}:
        raise ValueError(f"{len(metadata)} levels, blocks of dimensions {block_map}, for {rank} dimensions")
    strides = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    sides = dict.fromkeys(range(rank), 1)
    levels = []
    for level, number in zip(metadata[rank:], order[rank:], strict=True):
        axis = block_map[number - rank]
        sides[axis] = int(level.denseSize)
        if sides[axis] < 1 or shape[axis] % sides[axis]:
            raise ValueError(f"blocks of {sides[axis]} in a dimension of {shape[axis]}")
        levels.append((level, sides[axis], strides[axis]))
    outer = zip(metadata[:rank], order[:rank], strict=True)
    return [(level, shape[axis] // sides[axis], sides[axis] * strides[axis]) for level, axis in outer] + levels


def _longest_list(sparsity: Any) -> int:
    """No level has more positions than this or than there are values: the lists bound the work by the file's size."""
    return max((len(_list(level.arraySegments)) for level in sparsity.dimMetadata), default=0)


def _list(vector: Any) -> np.ndarray:
    values = None if vector is None else vector.values
    return np.zeros(0, np.int64) if values is None else np.asarray(values).astype(np.int64)


def _offsets(levels: list[tuple[Any, int, int]], *, limit: int) -> np.ndarray:
    """Where each stored value stands in the dense ones."""
    offsets = np.zeros(1, np.int64)
    for level, size, stride in levels:
        if level.format == schema.DimensionType.SPARSE_CSR:
            parents, own = _sparse(level, len(offsets), size)
        elif level.format == schema.DimensionType.DENSE and level.denseSize == size:
            if len(offsets) * size > limit:
                raise ValueError(f"{len(offsets) * size} positions for {limit} values")
            parents, own = np.repeat(np.arange(len(offsets)), size), np.tile(np.arange(size), len(offsets))
        else:
            raise ValueError(f"a level of format {level.format} and size {level.denseSize}, expected {size}")
        offsets = offsets[parents] + own * stride
    return offsets


def _sparse(level: Any, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each listed index, the position of the level above that it belongs to, and itself."""
    segments, own = _list(level.arraySegments), _list(level.arrayIndices)
    lengths = np.diff(segments)
    if len(segments) != count + 1 or segments[0] != 0 or segments[-1] != len(own) or (lengths < 0).any():
        raise ValueError(f"{len(segments)} segments for {count} positions and {len(own)} indices")
    parents = np.repeat(np.arange(count), lengths)
    if len(own) and (own.min() < 0 or own.max() >= size):
        raise ValueError(f"an index outside 0 to {size - 1}")
    if (np.diff(parents * size + own) <= 0).any():
        raise ValueError("indices that do not ascend")
    return parents, own
