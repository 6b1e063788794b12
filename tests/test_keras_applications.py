"""Every family of keras.applications, pruned to 80 %, computes in its files what it does in Keras."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import keras_prune

SPARSITY = 0.8
# Family: the smallest input that it takes, or little more, and what makes it small.
SMALL: dict[str, tuple[int, dict]] = {
    "MobileNet": (64, {"alpha": 0.25}),
    "MobileNetV2": (64, {"alpha": 0.35}),
}
LARGE: dict[str, tuple[int, dict]] = {
    "ConvNeXtTiny": (64, {}),
    "DenseNet121": (64, {}),
    "EfficientNetB0": (64, {}),
    "EfficientNetV2B0": (64, {}),
    "InceptionResNetV2": (75, {}),
    "InceptionV3": (75, {}),
    "MobileNetV3Small": (64, {}),
    "MobileNetV3Large": (64, {}),
    "NASNetMobile": (64, {}),
    "ResNet50": (64, {}),
    "ResNet50V2": (64, {}),
    "VGG16": (64, {}),
    "VGG19": (64, {}),
    "Xception": (75, {}),
}
FAMILIES = [
    *(pytest.param(name, *rest, id=name) for name, rest in SMALL.items()),
    *(pytest.param(name, *rest, id=name, marks=pytest.mark.slow) for name, rest in LARGE.items()),
]


def random_model(name, side, options):
    """Random weights of a size that neither fades nor grows from layer to layer (He et al. 2015), most pruned."""
    model = getattr(keras.applications, name)(
        input_shape=(side, side, 3), weights=None, classes=10, classifier_activation=None, **options
    )
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        values = rng.normal(size=variable.shape)
        if len(variable.shape) > 1:
            axes = variable.shape[:2] if variable.shape[-1] == 1 else variable.shape[:-1]  # of a depthwise kernel
            values *= math.sqrt(2 / (math.prod(axes) * (1 - SPARSITY))) * (rng.random(variable.shape) >= SPARSITY)
        else:
            values = values * 0.01 + ("gamma" in variable.path)
        variable.assign(values)
    return model


@pytest.mark.parametrize(("name", "side", "options"), FAMILIES)
def test_files_compute_what_keras_does(name, side, options):
    model = random_model(name, side, options)
    x = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    x[1] *= 3
    want = model.predict(x, verbose=0)
    assert np.isfinite(want).all()
    assert np.ptp(want, axis=0).max() > 0  # the network tells the inputs apart
    stock = keras_prune.export_tflite(model, target="stock")
    packed = keras_prune.export_tflite(model, weights="lossless")
    # Of 32 bits a weight, 0.2 times about 28 are left, and 0.7 for its position.
    assert len(packed) < len(stock) / 3
    for data in (stock, packed):
        got = keras_prune.predict_tflite(data, x)
        # float32 through up to 200 layers, in which the converter folds scales and adds in another order
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.abs(want).max())
