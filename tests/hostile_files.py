"""Small .tflite files, what an attacker may do to their bytes, and the readers that have to stand it."""

from __future__ import annotations

import functools
import io
import logging
import tracemalloc
import zipfile

import numpy as np
from one_operator import (  # type: ignore[import-not-found]
    Variable,
    model_of,
    sparse_weights,
    with_float16,
)
from sparse_files import DENSE, SPARSE, with_densify  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import flatbuffer, layer_bytes, layer_report, operators, packing
from keras_prune_export.schemes import Schemes

_CONV = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, "padding": 0}
# What is written over four bytes: nothing, all, signs, small numbers, as offsets and as lengths.
WORDS = (0, 1, 2, 4, 8, 64, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)


def conv():
    """One convolution, its weights large enough to be packed."""
    inputs = [(1, 4, 4, 8), sparse_weights(8, 2, 2, 8), np.arange(8, dtype=np.float32)]
    return model_of("CONV_2D", ("Conv2DOptions", _CONV), inputs, output=(1, 4, 4, 8))


def sparse_conv(**layout):
    """The same, its weights in TFLite's own sparse form."""
    model = conv()
    with_densify(model, "constant1", **layout)
    return model


def _half():
    model = conv()
    with_float16(model, "constant1")
    return model


def _state():
    gates = [sparse_weights(4, size, seed=size + k) for size in (8, 4) for k in range(4)]
    biases = [np.full(4, value, np.float32) for value in (0.1, 1, 0, -0.1)]
    inputs = [(1, 2, 8), *gates, None, None, None, *biases, None, None, Variable((1, 4)), Variable((1, 4))]
    fields = {"fusedActivationFunction": 4, "cellClip": 0.0, "projClip": 0.0, "timeMajor": False}
    options = ("UnidirectionalSequenceLSTMOptions", fields)
    return model_of("UNIDIRECTIONAL_SEQUENCE_LSTM", options, inputs, output=(1, 2, 4))


def with_archive(data):
    """The file with other files appended, as TFLite's metadata does."""
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
        archive.writestr("more.txt", "x" * 100, compress_type=zipfile.ZIP_DEFLATED)
    return stream.getvalue()


@functools.cache
def seeds():
    """The files, plain and packed."""
    plain = {
        "two subgraphs": flatbuffer.write(small_model(sparse(8, 24), second_weights=sparse(8, 24, density=0.6))),
        "float16": flatbuffer.write(_half()),
        "lstm": flatbuffer.write(_state()),
        "sparse": flatbuffer.write(sparse_conv()),
        "sparse blocks": flatbuffer.write(sparse_conv(blocks=[(0, 2), (3, 4)], order=[0, 2, 1, 3])),
        "sparse everywhere": flatbuffer.write(sparse_conv(formats=[SPARSE, DENSE, SPARSE, SPARSE])),
    }
    plain["archive"] = with_archive(plain["float16"])
    packed = {f"packed {name}": packing.pack(data, Schemes(None))[0] for name, data in plain.items()}
    return {**plain, **packed}


def read_all(data):
    """Gives a file to every reader; returns what each said: None, or its ValueError."""
    return {reader.__name__: _error(reader, data) for reader in (_describe, _bytes, _operators, _pack, _quantize)}


def _error(reader, data):
    try:
        reader(data)
    except ValueError as error:
        return error
    return None


def _describe(data):
    layer_report.packed_layers(flatbuffer.read(data))


def _bytes(data):
    rows = layer_bytes.layer_bytes(data)
    assert sum(row.num_bytes for row in rows) == len(data)


def _operators(data):
    operators.operators(flatbuffer.read(data))


def _pack(data):
    _packed(data, Schemes("lossless"))


def _quantize(data):
    _packed(data, Schemes(Codebook(4), min_sparsity=0))


def _packed(data, schemes):
    logger = logging.getLogger("keras_prune")
    level = logger.level
    logger.setLevel(logging.ERROR)  # thousands of files, each with warnings
    try:
        result, layers = packing.pack(data, schemes)
    finally:
        logger.setLevel(level)
    assert len(result) <= len(data) + _OVERHEAD
    if any(layer.packed for layer in layers):
        _describe(result)  # what we write, we can read


# What our writer may add to a damaged file: it writes twice, and aligns, what shared its bytes.
_OVERHEAD = 2**14


def declared_weights(data):
    """The elements of all tensors, as a file declares them; 0 where it cannot be read."""
    try:
        model = flatbuffer.read(data)
    except ValueError:
        return 0
    shapes = [flatbuffer.indices(tensor.shape) for graph in model.subgraphs for tensor in graph.tensors or ()]
    return sum(int(np.prod(np.abs(np.array(shape, np.float64)))) for shape in shapes)


def peak_bytes(data):
    """The most memory that the readers take at once."""
    tracemalloc.start()
    try:
        read_all(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def allowed_bytes(data):
    """The most memory that a file may take.

    2 MB: caches of imports and NumPy's own. 256 a byte: Python's object of the smallest table (8 bytes) has about 1 KB,
    and is made twice. 64 a declared weight: int64 positions and their copies while a tensor is made dense and packed.
    """
    return 2**21 + 256 * len(data) + 64 * declared_weights(data)
