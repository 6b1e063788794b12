"""One choice for each weight, in the order of the file."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_models  # type: ignore[import-not-found]

import keras_prune
from keras_prune import Codebook
from keras_prune_export import flatbuffer
from keras_prune_export.transformations import choose


def many_layers():
    """A file with a dozen matrices of several sizes that all read one input."""
    rng = np.random.default_rng(0)
    model = tflite_models.small_model(tflite_models.sparse(24, 40))
    first = model.subgraphs[0]
    for number in range(12):
        rows = 40 + 8 * (number % 5)
        values = (rng.laplace(size=(rows, 40)) * (rng.random((rows, 40)) < 0.3)).astype(np.float32)
        model.buffers.append(tflite_models.buffer(values))
        first.tensors.append(tflite_models.tensor(f"layer{number}", [rows, 40], len(model.buffers) - 1))
        first.tensors.append(tflite_models.tensor(f"y{number}", [1, rows], 2))
        end = len(first.tensors)
        first.operators.append(tflite_models.fully_connected([0, end - 2, -1], [end - 1]))
        first.outputs = np.append(first.outputs, end - 1).astype(np.int32)
    return flatbuffer.write(model)


def test_a_choice_for_each_in_order():
    file = flatbuffer.read(many_layers())
    names = [choice.name for choice in choose.choose(file, choose.Schemes(Codebook(3)))]
    assert [name for name in names if name.startswith("layer")] == [f"layer{number}" for number in range(12)]


def test_error_of_a_layer_is_raised():
    model = flatbuffer.read(many_layers())
    tensor = model.subgraphs[0].tensors[-2]
    values = np.full(tuple(tensor.shape), 1e9, np.float32)
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    with pytest.raises(ValueError, match="within float16's range"):
        keras_prune.pack_tflite(flatbuffer.write(model), weights="float16", min_sparsity=0)
