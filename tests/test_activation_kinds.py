"""evaluate_tflite reports the accuracy of float32 and of int8 activations, side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune import int8_activations
from keras_prune.quantization import Codebook
from keras_prune_export import activation_kinds, flatbuffer, measure


@pytest.fixture(scope="module", autouse=True)
def fewer_rounds(packed_layers_compute):
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "_ROUNDS", 3)
    patch.setattr(measure, "_BLOCK_NS", 1_000_000)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def source():
    model = small_model(sparse())
    model.subgraphs[0].tensors[0].shapeSignature = np.array([-1, 40], np.int32)
    model.subgraphs[0].tensors[3].shapeSignature = np.array([-1, 24], np.int32)
    return flatbuffer.write(model)


@pytest.fixture(scope="module")
def examples():
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) * 30
    return x, (x @ sparse().T + np.arange(24)).argmax(axis=1)


@pytest.fixture(scope="module")
def files(source):
    pairs = [(f"signature{number}", {"x": np.full((1, 40), 10, np.float32)}) for number in range(2)]
    int8 = {"weights": Codebook(), "activations": "int8"}
    return {
        "float32": keras_prune.pack_tflite(source, weights=Codebook()),
        "int8": keras_prune.pack_tflite(source, **int8),
        "int8, calibrated": keras_prune.pack_tflite(source, representative_data=lambda: pairs, **int8),
    }


def computed(x, scale=None):
    """The first output by NumPy: the weights of `small_model` fit a codebook of 4 bits or are quantized to one."""
    codes, codebook = Codebook().fit(sparse())
    return int8_activations.fully_connected(x, codes, codebook, bias=np.arange(24), scale=scale)


def test_variants_are_the_files_that_the_exporter_makes(files):
    assert activation_kinds.variants(files["float32"]) == {kind: files[kind] for kind in ("float32", "int8")}
    assert activation_kinds.variants(files["int8"]) == {kind: files[kind] for kind in ("float32", "int8")}
    assert activation_kinds.variants(files["int8, calibrated"]) == files
    for kind, data in files.items():
        assert activation_kinds.own_kind(data) == kind


@pytest.mark.parametrize("kind", ["float32", "int8", "int8, calibrated"])
def test_accuracy_of_each_kind(files, examples, kind):
    x, y = examples
    result = keras_prune.evaluate_tflite(files[kind], x, y)
    rows = {row.kind: row for row in result.kinds}
    assert [row.kind for row in result.kinds if row.is_file] == [kind]
    assert rows[kind].accuracy == result.accuracy
    assert rows["float32"].accuracy == 1
    assert rows["int8"].accuracy == np.mean(computed(x).argmax(axis=1) == y)
    if kind == "int8, calibrated":
        assert rows[kind].accuracy == np.mean(computed(x, 10 / np.float32(127)).argmax(axis=1) == y) < 1  # it clips
    for row in result.kinds:
        assert row.error_percent == pytest.approx(100 * (1 - row.accuracy))
        assert row.latency_ms > 0
    assert json.loads(result.to_json())["kinds"] == [row.to_dict() for row in result.kinds]


def test_table(files, examples):
    text = str(keras_prune.evaluate_tflite(files["int8"], *examples))
    table = next(part for part in text.split("\n\n") if part.startswith("activations")).splitlines()
    assert table[0].split("  ")[0] == "activations"
    assert [line.split("  ")[0] for line in table[2:]] == ["float32", "int8 *"]


def test_no_kinds_without_labels_or_packed_layers(source, files, examples):
    x, y = examples
    assert keras_prune.evaluate_tflite(files["float32"], x).kinds == ()
    assert keras_prune.evaluate_tflite(source, x, y).kinds == ()
    assert activation_kinds.variants(source) == {}
