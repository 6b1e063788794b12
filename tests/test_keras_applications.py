"""Every family of keras.applications, pruned to 80 %, computes in its files what it does in Keras."""

from __future__ import annotations

import hashlib
import math

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune_export import converter

SPARSITY = 0.8
# Of the largest output: float32 through up to 800 layers; the converter folds scales and adds in another order.
TOLERANCE = 1e-3
# Family: the smallest input that it takes (at 32 pixels the last maps have one), and what makes it small.
FAMILIES: dict[str, tuple[int, dict]] = {
    "ConvNeXtTiny": (32, {}),
    "DenseNet121": (32, {}),
    "EfficientNetB0": (32, {}),
    "EfficientNetV2B0": (32, {}),
    "InceptionResNetV2": (75, {}),
    "InceptionV3": (75, {}),
    "MobileNet": (32, {"alpha": 0.25}),
    "MobileNetV2": (32, {"alpha": 0.35}),
    "MobileNetV3Large": (32, {}),
    "MobileNetV3Small": (32, {}),
    "NASNetMobile": (32, {}),
    "ResNet50": (32, {}),
    "ResNet50V2": (32, {}),
    "VGG16": (32, {}),
    "VGG19": (32, {}),
    "Xception": (71, {}),
}
FAST = "MobileNet"  # the fewest layers and weights
CASES = [
    pytest.param(name, *rest, id=name, marks=() if name == FAST else pytest.mark.slow)
    for name, rest in FAMILIES.items()
]


def images(count, side):
    """Pixels from 0 to 255 in squares of one colour and noise, so that averages over the image differ too."""
    rng = np.random.default_rng(1)
    colours = rng.uniform(0, 255, size=(count, 2, 2, 3)).repeat(-(-side // 2), axis=1).repeat(-(-side // 2), axis=2)
    return ((colours[:, :side, :side] + rng.uniform(0, 255, size=(count, side, side, 3))) / 2).astype(np.float32)


def random_weights(model):
    """Of a size that neither fades nor grows from layer to layer (He et al. 2015), most pruned."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        values = rng.normal(size=variable.shape)
        if len(variable.shape) > 1:
            axes = variable.shape[:2] if variable.shape[-1] == 1 else variable.shape[:-1]  # of a depthwise kernel
            values *= math.sqrt(2 / (math.prod(axes) * (1 - SPARSITY))) * (rng.random(variable.shape) >= SPARSITY)
        else:
            values = values * 0.01 + ("gamma" in variable.path)
        variable.assign(values)


def measured_statistics(model, x):
    """Gives each BatchNormalization the mean and variance of what it gets for ``x``, as training would."""
    keras.utils.set_random_seed(0)  # dropout
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(x, training=True)


def random_model(name, side, options):
    model = getattr(keras.applications, name)(
        input_shape=(side, side, 3), weights=None, classes=10, classifier_activation=None, **options
    )
    random_weights(model)
    measured_statistics(model, images(16, side))
    return model


def check_same(data, x, want):
    """The file's outputs are Keras's, to a hundredth or less of what tells two inputs apart."""
    tolerance = TOLERANCE * np.abs(want).max()
    assert tolerance <= np.abs(want[1] - want[0]).max() / 100
    np.testing.assert_allclose(keras_prune.predict_tflite(data, x), want, rtol=0, atol=tolerance)


@pytest.fixture
def one_conversion(monkeypatch):
    """TensorFlow's converter takes most of the time, and always makes the same file of the same weights."""
    convert, files = converter.convert, {}

    def remembered(model, *, optimize=None):
        key = optimize, hashlib.blake2b(b"".join(variable.numpy().tobytes() for variable in model.variables)).digest()
        if key not in files:
            files[key] = convert(model, optimize=optimize)
        return files[key]

    monkeypatch.setattr(converter, "convert", remembered)


@pytest.mark.usefixtures("one_conversion")
@pytest.mark.parametrize(("name", "side", "options"), CASES)
def test_files_compute_what_keras_does(name, side, options):
    model = random_model(name, side, options)
    x = images(2, side)
    want = model.predict(x, verbose=0)
    stock = keras_prune.export_tflite(model, target="stock")
    check_same(stock, x, want)
    lossless = keras_prune.export_tflite(model, weights="lossless")
    # Of 32 bits a weight, 0.2 times about 28 are left, and 0.7 for its position.
    assert len(lossless) < len(stock) / 3
    check_same(lossless, x, want)
    packed = keras_prune.export_tflite(model)
    # 0.2 times 8 bits, and 0.7 for its position, are a 13th; then the operators, scales and biases.
    assert len(packed) < len(stock) / 8
    check_same(packed, x, keras_prune.quantize(model, in_place=True).predict(x, verbose=0))
