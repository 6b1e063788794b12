"""The variables that a file's constants were made of, through the real converter."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_prune_export import converter, flatbuffer
from keras_prune_export.origins import Origins

layers = keras.layers


def filled(model, density):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        values = rng.normal(size=variable.shape)
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        if len(variable.shape) > 1:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    return model


def image_model():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    x = layers.Conv2D(8, 3, dilation_rate=2, name="dilated")(layers.ReLU()(x))
    x = layers.Conv2DTranspose(4, 3, strides=2, name="transposed")(x)
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.BatchNormalization(name="bn3")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, name="dense")(x))


def sequence_model():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16, name="embedding")(inputs)
    x = layers.Conv1D(8, 3, name="conv1d")(x)
    x = layers.LSTM(8, unroll=True, return_sequences=True, name="lstm")(x)
    x = layers.GRU(6, unroll=True, return_sequences=True, name="gru")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(inputs, layers.EinsumDense("abc,cde->abde", output_shape=(None, 3, 5), name="einsum")(x))


def found(model):
    file = flatbuffer.read(converter.convert(model))
    origins = Origins(model)
    return [o for c in flatbuffer.float_constants(file).values() if c.ndim > 1 for o in origins.find(c)]


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("build", [image_model, pytest.param(sequence_model, marks=pytest.mark.slow)])
def test_every_kernel_is_found(build, density):
    model = filled(build(), density)
    kernels = {v.path for v in model.weights if v.name.endswith(("kernel", "embeddings"))}
    assert {origin.path for origin in found(model) if not origin.path.endswith("bias")} == kernels


def test_folded_kernels_are_known_as_such():
    kinds = {origin.path: origin.kind for origin in found(filled(image_model(), 0.3))}
    folded = {path: kind for path, kind in kinds.items() if kind != "same"}
    assert folded == {"conv/kernel": "rows", "depthwise/kernel": "rows", "dense/kernel": "columns"}


def test_layouts_go_there_and_back():
    model = filled(sequence_model(), 1.0)
    file = flatbuffer.read(converter.convert(model))
    origins = Origins(model)
    for constant in flatbuffer.float_constants(file).values():
        for origin in origins.find(constant):
            values = origin.variable.numpy()
            np.testing.assert_array_equal(origin.to_file(values), constant.reshape(-1))
            np.testing.assert_array_equal(origin.from_file(constant.reshape(-1)), values)


def dense_of(kernel):
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layers.Dense(kernel.shape[1])])
    model.layers[0].kernel.assign(kernel)
    return model


def test_other_values_have_no_origin():
    kernel = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    origins = Origins(dense_of(kernel))
    assert [origin.kind for origin in origins.find(kernel.T)] == ["same"]
    assert [origin.kind for origin in origins.find(kernel.T * np.arange(1, 9, dtype=np.float32)[:, None])] == ["rows"]
    assert origins.find(kernel[::-1].T) == []
    assert origins.find(kernel.T + 1) == []
    assert origins.find(kernel[:5].T) == []
    assert origins.find(np.zeros_like(kernel.T)) == []


def test_scales_of_zero_and_below():
    kernel = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    scales = np.array([1, 0, -2, 3, 0, 1, -1, 0.5], np.float32)
    (origin,) = Origins(dense_of(kernel)).find(kernel.T * scales[:, None])
    assert (origin.kind, origin.axes) == ("rows", (1, 0))


def test_equal_variables_are_all_found_and_a_pattern_alone_is_not_enough_for_two():
    kernel = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    kernel *= np.random.default_rng(1).random((16, 16)) < 0.5
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16), layers.Dense(16)])
    for layer in model.layers:
        layer.kernel.assign(kernel)
    assert len(Origins(model).find(kernel.T)) == 2
    both = kernel.T * np.linspace(1, 2, 16)[:, None] * np.linspace(1, 3, 16)
    assert Origins(model).find(both) == []
    assert [origin.kind for origin in Origins(dense_of(kernel)).find(both)] == ["folded"]
