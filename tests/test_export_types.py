"""Models of other types than float32 are exported through a copy, or refused with the reason."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]

from keras_prune_export import converter, evaluate, flatbuffer, tflite
from keras_prune_export.layer_report import packed_layers

layers = keras.layers


def typed_model(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((12,))
        x = layers.BatchNormalization()(inputs)
        x = layers.Dense(32, activation="relu")(x)
        x = layers.Lambda(lambda values: values * 2)(x) + layers.Dense(32)(x)
        model = keras.Model(inputs, layers.Dense(5, activation="softmax", dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(before)
    return prune(model, density=0.3)


@pytest.mark.parametrize(
    ("policy", "bits"),
    [
        ("mixed_float16", 11),
        pytest.param("mixed_bfloat16", 8, marks=pytest.mark.slow),
        pytest.param("float16", 11, marks=pytest.mark.slow),
        pytest.param("bfloat16", 8, marks=pytest.mark.slow),
        ("float64", 24),
    ],
)
def test_models_of_other_types_go_through_float32(policy, bits):
    model = typed_model(policy)
    before = [variable.numpy() for variable in model.weights]
    x = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    interpreter_values = evaluate.predict_tflite(converter.convert(model), x)
    assert interpreter_values.dtype == np.float32
    # probabilities; a few dozen roundings to so many bits
    np.testing.assert_allclose(interpreter_values, model.predict(x, verbose=0), atol=max(32 * 2.0**-bits, 1e-5))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 3
    for variable, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


class Opaque(keras.Model):
    def __init__(self, made):
        super().__init__(dtype="mixed_float16")
        self.made = made

    def call(self, x):
        return self.made(x)


def test_model_of_another_type_that_cannot_be_copied():
    model = Opaque(layers.Dense(3, dtype="mixed_float16"))
    model(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match=r"which uses float16, and copying failed(.|\n)*set_dtype_policy\('float32'\)"):
        converter.convert(model)


def test_values_beyond_float32_are_refused():
    model = keras.Sequential([keras.Input((4,), dtype="float64"), layers.Dense(3, dtype="float64")])
    model.layers[0].kernel.assign(np.full((4, 3), 1e300))
    with pytest.raises(ValueError, match="does not fit in float32"):
        converter.convert(model)
