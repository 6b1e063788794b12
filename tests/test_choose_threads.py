"""Layers are packed on all cores: the bytes, the order and the errors are those of one thread."""

from __future__ import annotations

import os
import threading

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


@pytest.mark.parametrize("weights", [Codebook(4), Codebook(5, optimum=True), "lossless", "float16"], ids=str)
def test_same_bytes_as_with_one_thread(monkeypatch, weights):
    data = many_layers()
    results = []
    for cores in (1, 4, 4):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        results.append(keras_prune.pack_tflite(data, weights=weights))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) < 0.6 * len(data)


def test_no_more_layers_at_a_time_than_cores_and_in_order(monkeypatch):
    running, most, lock, both = 0, 0, threading.Lock(), threading.Barrier(2)
    original = choose._choose

    def counted(model, constant, schemes, *, names):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(60)  # goes on when two are here
        try:
            return original(model, constant, schemes, names=names)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    file = flatbuffer.read(many_layers())
    expected = [choice.name for choice in choose.choose(file, choose.Schemes(Codebook(3)))]
    expected = expected[: len(expected) // 2 * 2]
    monkeypatch.setattr(choose, "_choose", counted)
    found = choose.constants.find(file)
    candidates = [c for c in found if choose._is_candidate(file, c)][: len(expected)]
    called = {c.buffer: choose._names(file, c) for c in candidates}
    choices = choose._choose_all(file, candidates, choose.Schemes(Codebook(3)), called=called)
    assert [choice.name for choice in choices] == expected
    assert most == 2


def test_error_of_a_layer_is_raised():
    model = flatbuffer.read(many_layers())
    tensor = model.subgraphs[0].tensors[-2]
    values = np.full(tuple(tensor.shape), 1e9, np.float32)
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    with pytest.raises(ValueError, match="within float16's range"):
        keras_prune.pack_tflite(flatbuffer.write(model), weights="float16", min_sparsity=0)
