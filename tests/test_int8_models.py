"""Whole models with int8 activations beside what `keras_prune.quantize` computes in float32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]

import keras_prune
from keras_prune_export import kernel_costs

layers = keras.layers
pytestmark = pytest.mark.usefixtures("packed_layers_compute", "all_in_int8")


@pytest.fixture
def all_in_int8(monkeypatch):
    """Also convolutions that are faster in float32."""
    monkeypatch.setattr(kernel_costs, "packed_form", lambda works, kind: kernel_costs.FORMS[kind][0])


def residual():
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(image)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x)))
    y = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(y))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(layers.ReLU()(x + y))))


def u_net():
    image = keras.Input((8, 8, 2))
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    b = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(a))
    up = layers.Concatenate()([layers.Conv2DTranspose(8, 2, strides=2)(b), layers.UpSampling2D()(b), a])
    return keras.Model(image, layers.Conv2D(4, 1)(layers.Conv2D(8, 3, padding="same", activation="relu")(up)))


def recurrent():
    words = keras.Input((5, 12))
    x = layers.TimeDistributed(layers.Dense(24, activation="relu"))(
        layers.GRU(16, return_sequences=True, unroll=True)(words)
    )
    return keras.Model(words, layers.Dense(8)(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("build", "calibrated"),
    [
        (residual, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((residual, False), (recurrent, False), (recurrent, True), (u_net, False), (u_net, True))
        ),
    ],
)
def test_is_close_to_float_and_reports_both_kinds(seeded, build, calibrated):
    model = prune(build(), density=0.3)
    x = np.random.default_rng(0).normal(size=(20, *model.input_shape[1:])).astype(np.float32)
    data = keras_prune.export_tflite(model, activations="int8", representative_data=x if calibrated else None)
    want = np.asarray(keras_prune.quantize(model)(x))
    for batch_size in (1, 20):
        got = keras_prune.predict_tflite(data, x, batch_size=batch_size)
        # Half a step of 127 for inputs and for weights of each layer; measured: .4 to 1.6 % of the largest output.
        assert 0 < np.abs(got - want).max() < 0.04 * np.abs(want).max()
    if want.ndim == 2:
        report = keras_prune.evaluate_tflite(data, x, want.argmax(axis=-1))
        kinds = ["float32", "int8", "int8, calibrated"] if calibrated else ["float32", "int8"]
        assert [result.kind for result in report.kinds] == kinds
        assert [result.is_file for result in report.kinds] == [kind == kinds[-1] for kind in kinds]
        assert report.kinds[0].accuracy == 1
