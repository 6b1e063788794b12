"""What the converter makes of one Keras model, in each of its types, packed without loss (slow: many conversions)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]
from stock_files import run  # type: ignore[import-not-found]

import keras_prune
from keras_prune_export import converter, flatbuffer
from keras_prune_export.layer_report import packed_layers

layers = keras.layers
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def convolutional():
    inputs = keras.Input((12, 12, 16))
    x = layers.Conv2D(32, 3)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = layers.Conv2DTranspose(24, 3, strides=2)(x)
    x = layers.SeparableConv2D(48, 3, activation="relu")(x)
    x = layers.Conv2D(32, 3, dilation_rate=2, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return prune(keras.Model(inputs, layers.Dense(10)(x)), density=0.2)


@pytest.mark.parametrize(
    ("optimize", "factor"), [(None, 4), ("float16", 3), ("dynamic_range", 2), ("int8", 1.8)], ids=str
)
def test_converted_files(convolutional, optimize, factor):
    x = np.random.default_rng(0).random((1, 12, 12, 16)).astype(np.float32)
    data = converter.convert(convolutional, optimize=optimize, representative_data=x if optimize == "int8" else None)
    result = keras_prune.pack_tflite(data)
    assert len(data) > factor * len(result)
    assert {layer.form for layer in packed_layers(flatbuffer.read(result))} == {"expand"}
    ((name, want),) = run(data, x).items()
    # the same weights in the same kernels; float16 is made float32 by us instead of by XNNPACK
    np.testing.assert_allclose(run(result, x)[name], want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_sequences_quantized_and_exact():
    inputs = keras.Input((12,))
    x = layers.Conv1D(24, 3)(layers.Embedding(500, 16)(inputs))
    x = layers.LSTM(16, return_sequences=True, unroll=True)(x)
    model = prune(keras.Model(inputs, layers.Dense(30)(layers.GRU(12, unroll=True)(x))), density=0.2)
    x = np.random.default_rng(0).integers(0, 500, (1, 12)).astype(np.float32)
    ((name, want),) = run(converter.convert(model), x).items()
    np.testing.assert_array_equal(run(keras_prune.export_tflite(model, weights="lossless"), x)[name], want)
    quantized = keras_prune.quantize(model).predict(x, verbose=0)
    # float32 sums in another order
    np.testing.assert_allclose(run(keras_prune.export_tflite(model), x)[name], quantized, atol=1e-5)
