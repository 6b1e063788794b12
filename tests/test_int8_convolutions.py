"""Convolutions with int8 activations: bit for bit what NumPy computes, from the exporter to the real interpreter."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from one_operator import model_of, sparse_weights  # type: ignore[import-not-found]
from packed_models import load, supported_isas  # type: ignore[import-not-found]
from packed_models import run as run_interpreter
from stock_files import operators, run  # type: ignore[import-not-found]

import keras_prune
from keras_prune import Codebook, int8_activations
from keras_prune_export import activation_kinds, flatbuffer, kernel_costs, packing
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets.convolution import Options
from keras_prune_export.transformations.int8_activations import computing, options_of, set_activations

layers = keras.layers
ACTIVATIONS = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Layers compute on packed weights wherever they can, however small they are, and as they were asked to."""
    monkeypatch.setattr(kernel_costs, "packed_pays", lambda works, *_: True)
    monkeypatch.setattr(kernel_costs, "packed_form", lambda works, kind: kernel_costs.FORMS[kind][0])


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bias_of(rows):
    return images(rows, seed=1)


def int8_file(weights, *, size, scale=None, **options):
    """A file of one CONV_2D on packed weights with int8 activations; ``options`` are TFLite's."""
    fields = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0} | options
    output = (1, 1, 1, len(weights))  # the delegate says the real one
    inputs = [(1, *size, weights.shape[3]), weights, bias_of(len(weights))]
    made = model_of("CONV_2D", ("Conv2DOptions", fields), inputs, output=output)
    model = flatbuffer.read(packing.pack(flatbuffer.write(made), Schemes(Codebook()))[0])
    set_activations(model, "int8", None if scale is None else {place: scale for place, _ in computing(model)})
    return flatbuffer.write(model)


def expected(weights, x, *, scale=None, activation=0, **shape):
    """By NumPy: patches, then the fully connected layer."""
    codes, codebook = Codebook().fit(weights.reshape(len(weights), -1))
    rows = int8_activations.patches(x, weights.shape[1:3], **shape)
    y = int8_activations.fully_connected(
        rows.reshape(-1, rows.shape[-1]), codes, codebook, bias=bias_of(len(weights)), scale=scale
    )
    return np.clip(y, *np.array(ACTIVATIONS[activation], np.float32)).reshape(*rows.shape[:3], -1)


@pytest.mark.parametrize("isa", ["reference", "scalar", "avx2", "avx512"])
@pytest.mark.parametrize("scale", [None, 0.013])
@pytest.mark.parametrize(
    ("kernel", "options", "shape"),
    [
        ((1, 1), {}, {}),
        ((1, 1), {"strideH": 2, "strideW": 2}, {"strides": (2, 2)}),
        ((3, 3), {}, {}),
        ((3, 3), {"padding": 1}, {"padding": "valid"}),
        ((2, 5), {"strideH": 2, "strideW": 1}, {"strides": (2, 1)}),
        ((3, 2), {"dilationHFactor": 3, "dilationWFactor": 2}, {"dilations": (3, 2)}),
    ],
)
def test_bits_are_those_of_numpy(isa, kernel, options, *, shape, scale):
    if isa not in supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    weights = sparse_weights(33, *kernel, 17)
    data = int8_file(weights, size=(7, 9), scale=scale, **options)
    for batch in (1, 3):
        x = images(batch, 7, 9, 17)
        got = run_interpreter(load(data, plugin_options={"isa": isa}), x)
        want = expected(weights, x, scale=scale, **shape)
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("scale", [None, 0.05])
def test_fused_activations(activation, scale):
    weights, x = sparse_weights(16, 3, 3, 24), 3 * images(1, 7, 9, 24)
    data = int8_file(weights, size=(7, 9), scale=scale, fusedActivationFunction=activation)
    np.testing.assert_array_equal(
        run_interpreter(load(data), x), expected(weights, x, scale=scale, activation=activation)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_only_patches_that_see_a_value_that_is_not_finite_are_nan(value):
    weights, x = sparse_weights(16, 3, 3, 16), images(1, 7, 9, 16)
    x[0, 3, 4, 5] = value
    for scale in (None, 0.02):
        got = run_interpreter(load(int8_file(weights, size=(7, 9), scale=scale)), x)
        assert np.isnan(got[0, 2:5, 3:6]).all()
        assert np.isnan(got).sum() == 9 * 16


def conv_net():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 16)),
            layers.Conv2D(24, 3, activation="relu", padding="same"),
            layers.Conv2D(32, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    return keras_prune.prune(model, 0.7)


def options(data):
    model = flatbuffer.read(data)
    return [options_of(model, op) for _, op in computing(model)]


def test_export_of_a_network():
    model, x = conv_net(), images(20, 12, 12, 16)
    plain = keras_prune.export_tflite(model)
    dynamic = keras_prune.export_tflite(model, activations="int8")
    static = keras_prune.export_tflite(model, activations="int8", representative_data=x)
    assert [type(o) for o in options(dynamic)] == [Options, Options, type(options(dynamic)[2])]
    assert [(o.activations, o.x_scale) for o in options(dynamic)] == [("int8", None)] * 3
    assert options(static)[0].x_scale == np.abs(x).max() / np.float32(127)
    assert activation_kinds.variants(static) == {"float32": plain, "int8": dynamic, "int8, calibrated": static}
    wanted = [o.activations for o in options(plain)]
    assert wanted == ["float32"] * 3
    first, *_ = run(plain, x[:1]).values()
    for data in (dynamic, static):
        got, *_ = run(data, x[:1]).values()
        assert 0 < np.abs(got - first).max() < 0.05 * np.abs(first).max()


def test_evaluation_reports_both_kinds():
    model, x = conv_net(), images(20, 12, 12, 16)
    y = model.predict(x, verbose=0).argmax(axis=1)
    data = keras_prune.export_tflite(model, activations="int8", weights=Codebook(8))
    rows = keras_prune.evaluate_tflite(data, x, y).kinds
    assert [(row.kind, row.is_file) for row in rows] == [("float32", False), ("int8", True)]
    assert rows[0].accuracy == 1
    want = keras_prune.predict_tflite(data, x).argmax(axis=1) == y
    assert rows[1].accuracy == np.mean(want)


def shared_conv_net():
    """A convolution that is called twice, on images of two sizes."""
    keras.utils.set_random_seed(0)
    inputs, conv = keras.Input((12, 12, 16)), layers.Conv2D(16, 3, activation="relu")
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(conv(conv(inputs))))
    return keras_prune.prune(keras.Model(inputs, outputs), 0.7)


@pytest.mark.parametrize("make", [conv_net, shared_conv_net])
def test_networks_with_dense_int8_convolutions(monkeypatch, make):
    model, x = make(), images(20, 12, 12, 16)
    plain = keras_prune.export_tflite(model)
    monkeypatch.setattr(kernel_costs, "packed_pays", lambda works, *_: not any(work.inputs for work in works))
    monkeypatch.setattr(kernel_costs, "speedup", lambda works, *_: 2.0)
    monkeypatch.setattr(kernel_costs, "dense_form", lambda works, *_: "dense_int8")
    first, *_ = run(plain, x[:1]).values()
    for representative_data in (None, x):
        data = keras_prune.export_tflite(model, activations="int8", representative_data=representative_data)
        assert operators(data).count("CONV_2D") == 2
        assert [o.activations for o in options(data)] == ["int8"]  # the fully connected layer
        got, *_ = run(data, x[:1]).values()
        assert 0 < np.abs(got - first).max() < 0.05 * np.abs(first).max()
    y = keras_prune.predict_tflite(data, x).argmax(axis=1)
    rows = keras_prune.evaluate_tflite(data, x, y).kinds
    assert [(row.kind, row.accuracy) for row in rows if row.is_file] == [("int8, calibrated", 1)]


def test_integer_files_stay_as_they_are():
    """Their convolutions and fully connected layers have int8 inputs: stock kernels compute, on the same weights."""
    model, x = conv_net(), images(20, 12, 12, 16)
    stock = keras_prune.export_tflite(
        model, target="stock", weights=keras_prune.Int8(), activations="int8", representative_data=x
    )
    data = keras_prune.pack_tflite(stock)
    assert "CUSTOM" in operators(data)
    assert not options(data)
    for got, want in zip(run(data, x[:1]).values(), run(stock, x[:1]).values(), strict=True):
        np.testing.assert_array_equal(got, want)
