"""Which operators can compute on packed weights, and how much work that is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.kernel_terms import MOST_EXACT, Work
from keras_prune_export.transformations import pack_convolution, pack_fully_connected
from keras_prune_export.transformations.constants import Reader, View
from keras_prune_export.transformations.dense_int8 import quantized

_OPS = schema.BuiltinOperator


def why_not_computed(model: Any, reader: Reader) -> str:
    """Why one operator cannot compute on packed weights; empty when it can.

    Args:
        model: ``ModelT`` object.
        reader: the weights of a FULLY_CONNECTED or a CONV_2D.
    """
    if _is_convolution(model, reader):
        return pack_convolution.why_not_computed(model, reader)
    return pack_fully_connected.why_not_computed(model, reader)


def pack_computing(model: Any, view: View, packed: bytes) -> None:
    """Turns the operators that read a view into those that compute on packed weights.

    Args:
        model: ``ModelT`` object, edited in place.
        view: weights that only FULLY_CONNECTED, or only CONV_2D operators read.
        packed: the bytes that take their place.
    """
    is_convolution = _is_convolution(model, view.readers[0])
    pack = pack_convolution.pack_convolution if is_convolution else pack_fully_connected.pack_fully_connected
    pack(model, view, packed)


def works_of(model: Any, view: View, kept: int, *, codebook: int) -> tuple[Work, ...]:
    """What the operators that read a view compute.

    Args:
        model: ``ModelT`` object.
        view: weights whose operators can compute on packed ones.
        kept: of the weights.
        codebook: values that they share, zero included.
    """
    works = (work_of(model, reader, kept) for reader in view.readers)
    return tuple(dataclasses.replace(work, codebook=codebook) for work in works)


def sums_are_exact(values: np.ndarray) -> bool:
    """Whether float32 holds the sums of int8 products, so that kernels on tiles compute them.

    Args:
        values: float32 weights that a codebook holds, (outputs, ...).
    """
    codes, _ = quantized(values.reshape(len(values), -1))
    return int(np.abs(codes.astype(np.int32)).sum(axis=1).max(initial=0)) <= MOST_EXACT


def work_of(model: Any, reader: Reader, kept: int) -> Work:
    """What one operator computes; sizes that the file leaves open are those that it gives as examples.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
        kept: of them.
    """
    tensors = model.subgraphs[reader.graph].tensors
    inputs, outputs = flatbuffer.indices(reader.op.inputs), flatbuffer.indices(reader.op.outputs)
    weights, output = (flatbuffer.indices(tensors[i].shape) for i in (inputs[1], outputs[0]))
    rows, cols = weights[0], math.prod(weights[1:])
    values = math.prod(flatbuffer.indices(tensors[inputs[0]].shape))
    if _is_convolution(model, reader):
        return Work(rows, cols, kept, max(1, math.prod(output[:3])), max(1, values))
    return Work(rows, cols, kept, max(1, values // cols))


def _is_convolution(model: Any, reader: Reader) -> bool:
    return flatbuffer.builtin_code(model, reader.op) == _OPS.CONV_2D
