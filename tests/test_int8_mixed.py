"""Exports with int8 activations whose convolutions compute in float32, on the same packed weights."""

from __future__ import annotations

import logging
import re

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]

import keras_prune
from keras_prune_export import activation_kinds, converter, flatbuffer, kernel_costs, measure
from keras_prune_export.transformations import computing as computed
from keras_prune_export.transformations.int8_activations import computing, options_of

layers = keras.layers


@pytest.fixture(scope="module", autouse=True)
def convolutions_are_faster_in_float32():
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "_ROUNDS", 2)
    patch.setattr(measure, "_BLOCK_NS", 100_000)
    patch.setattr(kernel_costs, "packed_pays", lambda works, *_: True)
    patch.setattr(kernel_costs, "ratio", lambda works, form, other: {"packed": 1, "packed_int8": 1.25}[form])
    yield
    patch.undo()


def images(count=20):
    return np.random.default_rng(0).normal(size=(count, 12, 12, 16)).astype(np.float32)


def network(*head):
    keras.utils.set_random_seed(0)
    parts = [keras.Input((12, 12, 16)), layers.Conv2D(24, 3, activation="relu"), layers.Conv2D(32, 1), *head]
    return prune(keras.Sequential(parts), density=0.3)


@pytest.fixture(scope="module")
def model():
    return network(layers.GlobalAveragePooling2D(), layers.Dense(24, activation="relu"), layers.Dense(10))


@pytest.fixture(scope="module")
def source(model):
    return converter.convert(model)


def packed(source, **arguments):
    return keras_prune.pack_tflite(source, weights=None, **arguments)


@pytest.fixture(scope="module")
def files(source):
    return {
        "float32": packed(source),
        "int8": packed(source, activations="int8"),
        "int8, calibrated": packed(source, activations="int8", representative_data=images()),
    }


def options(data):
    file = flatbuffer.read(data)
    return [options_of(file, op) for _, op in computing(file)]


def outputs(data, x):
    return keras_prune.predict_tflite(data, x)


def test_only_the_fully_connected_layers_are_int8(files):
    for kind, data in files.items():
        own = "float32" if kind == "float32" else "int8"
        assert [o.activations for o in options(data)] == ["float32", "float32", own, own]
        assert [o.x_scale is not None for o in options(data)] == [False, False, *[kind == "int8, calibrated"] * 2]


def test_the_size_is_that_of_the_float32_file(files):
    assert len({len(data) for data in files.values()}) == 1


def test_the_convolutions_compute_the_bits_of_the_float32_file(model, files):
    x = images(4)
    body = keras.Sequential([keras.Input((12, 12, 16)), *model.layers[:3]])
    pooled = outputs(keras_prune.export_tflite(body), x)
    head = keras.Sequential([keras.Input((32,)), *model.layers[3:]])
    np.testing.assert_array_equal(
        outputs(files["int8"], x), outputs(keras_prune.export_tflite(head, activations="int8"), pooled)
    )


def test_what_is_said_of_each_layer(source, caplog):
    with caplog.at_level(logging.INFO, logger="keras_prune"):
        packed(source, activations="int8")
    lines = [r.getMessage() for r in caplog.records if "computes on the " in r.getMessage()]
    assert len(lines) == 4
    for line in lines:
        reason = r", in float32: 1\.25 times as fast as in int8" if "conv2d" in line else ""
        assert re.search(rf"computes on the \d+\.\d% of the weights that are kept{reason}$", line)


def test_variants_change_the_int8_layers_alone(files):
    assert activation_kinds.variants(files["int8, calibrated"]) == files
    assert activation_kinds.variants(files["int8"]) == {kind: files[kind] for kind in ("float32", "int8")}
    for kind, data in files.items():
        assert activation_kinds.own_kind(data) == kind


def test_the_report_has_both_accuracies_and_each_layers_arithmetic(files):
    x = images()
    y = outputs(files["float32"], x).argmax(axis=1)
    result = keras_prune.evaluate_tflite(files["int8, calibrated"], x, y)
    for row in result.kinds:
        assert row.accuracy == np.mean(outputs(files[row.kind], x).argmax(axis=1) == y)
    assert [(row.kind, row.is_file) for row in result.kinds] == [(kind, kind == "int8, calibrated") for kind in files]
    assert [layer.activations for layer in result.layers] == ["float32", "float32", "int8", "int8"]
    assert [row.activations for row in result.sizes][:4] == ["float32", "float32", "int8", "int8"]
    assert [layer["activations"] for layer in result.to_dict()["layers"]] == ["float32", "float32", "int8", "int8"]
    assert len(re.findall(r"compute int8 ", str(result))) == 2


def test_only_int8_layers_are_calibrated():
    """What no scale is made of may be zero, or not finite."""
    inputs = [keras.Input((12, 12, 16)), keras.Input((40,))]
    image = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3)(inputs[0]))
    both = prune(keras.Model(inputs, [image, layers.Dense(24)(inputs[1])]), density=0.3)
    data = [np.zeros((20, 12, 12, 16), np.float32), np.full((20, 40), 12.7, np.float32)]
    found = options(keras_prune.export_tflite(both, activations="int8", representative_data=data))
    assert sorted((o.activations, round(o.x_scale or 0, 6)) for o in found) == [("float32", 0), ("int8", 0.1)]


@pytest.mark.parametrize("calibrated", [False, True])
def test_convolutions_alone_are_int8_as_was_asked_for(caplog, calibrated):
    model, x = network(), images()
    with caplog.at_level(logging.INFO, logger="keras_prune"):
        data = keras_prune.export_tflite(model, activations="int8", representative_data=x if calibrated else None)
    assert [o.activations for o in options(data)] == ["int8", "int8"]
    assert [o.x_scale is not None for o in options(data)] == [calibrated] * 2
    lines = [r.getMessage() for r in caplog.records if "computes on the " in r.getMessage()]
    assert len(lines) == 2
    assert all(line.endswith("kept, in int8, as no other layer is: float32 is 1.25 times as fast") for line in lines)


def test_sums_that_float32_holds():
    # 132,104 is 2^24 / 127: 1,040 weights of 127, and 24 more
    row = np.ones((1, 1, 1, 1041), np.float32)
    row[..., 1040] = 24 / 127
    assert computed.sums_are_exact(row)
    row[..., 1040] = -25 / 127
    assert not computed.sums_are_exact(row)
    assert computed.sums_are_exact(np.concatenate([row[..., :521], row[..., 520:]]))
    assert computed.sums_are_exact(np.zeros((2, 3), np.float32))
