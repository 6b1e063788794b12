"""TFLite's own sparse tensors, encoded by plain loops, for the tests of what reads them."""

from __future__ import annotations

import itertools

import numpy as np
from one_operator import through  # type: ignore[import-not-found]

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema

DENSE, SPARSE = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR


def encode(values, *, order=None, blocks=(), formats=None):
    """(stored values, SparsityParametersT).

    ``order`` of the dimensions; ``blocks``: (dimension, side); ``formats`` of the levels, by default the last one of
    the dimensions sparse and the others dense.
    """
    rank = values.ndim
    order = [*(order or range(rank)), *(rank + number for number in range(len(blocks)))]
    formats = formats or [*[DENSE] * (rank - 1), SPARSE, *[DENSE] * len(blocks)]
    sides = dict.fromkeys(range(rank), 1) | dict(blocks)
    sizes = [values.shape[axis] // sides[axis] for axis in order[:rank]] + [side for _, side in blocks]

    def places(prefix):
        """The indices of the dense values below a prefix of the levels."""
        for rest in itertools.product(*(range(size) for size in sizes[len(prefix) :])):
            path, index = (*prefix, *rest), [0] * rank
            for level, axis in enumerate(order[:rank]):
                index[axis] = path[level] * sides[axis]
            for number, (axis, _) in enumerate(blocks):
                index[axis] += path[rank + number]
            yield tuple(index)

    prefixes, metadata = [()], []
    for size, kind in zip(sizes, formats, strict=True):
        level = schema.DimensionMetadataT()
        level.format = kind
        segments, indices, below = [0], [], []
        for prefix in prefixes:
            for own in range(size):
                if kind == DENSE or any(values[place] != 0 for place in places((*prefix, own))):
                    below.append((*prefix, own))
                    indices.append(own)
            segments.append(len(indices))
        if kind == DENSE:
            level.denseSize = size
        else:
            level.arraySegmentsType, level.arraySegments = schema.SparseIndexVector.Int32Vector, schema.Int32VectorT()
            level.arrayIndicesType, level.arrayIndices = schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT()
            level.arraySegments.values = np.array(segments, np.int32)
            level.arrayIndices.values = np.array(indices, np.uint8)
        prefixes = below
        metadata.append(level)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder, parameters.dimMetadata = np.array(order, np.int32), metadata
    parameters.blockMap = np.array([axis for axis, _ in blocks], np.int32) if blocks else None
    return np.array([values[next(places(prefix))] for prefix in prefixes], values.dtype), parameters


def with_densify(model, name, **layout):
    """The constant of this name is stored sparse, and DENSIFY makes it dense."""
    stored = through(model, name, "DENSIFY", stored=f"{name}/sparse")
    dense = flatbuffer.constant(model, stored)
    values, stored.sparsity = encode(dense, **layout)
    model.buffers[stored.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    return stored
