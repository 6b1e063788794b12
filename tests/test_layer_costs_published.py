"""Costs of published nets, against what their papers say and TensorFlow's own profiler."""

from __future__ import annotations

import math

import keras
import pytest
import tensorflow as tf
from keras import layers

from keras_prune.layer_costs import costs


def build(name, **kwargs):
    return getattr(keras.applications, name)(weights=None, **kwargs)


@pytest.fixture(scope="module")
def vgg16():
    return build("VGG16")


def test_vgg16(vgg16):
    """Simonyan and Zisserman 2015: 138 M parameters; 15.5 GMAC; 4,224 feature maps (Molchanov 2017)."""
    result = costs(vgg16)
    assert round(result.total.macs / 1e9, 1) == 15.5
    assert result.total.parameters == 138_357_544
    assert result.conv_units == 4224
    assert result.total.units == 4224 + 4096 + 4096 + 1000
    assert result["fc1"].macs == 25088 * 4096
    assert result.unknown == ()


def test_vgg16_needs_dram_until_it_is_packed(vgg16):
    """Han 2016: 11.3 MB of weights, which fit an SRAM of 16 MB; dense they are read from DRAM."""
    result = costs(vgg16)
    dense, packed = (result.energy(size, sram_bytes=16 << 20) for size in (None, 11_300_000))
    assert (dense.weights_fit, packed.weights_fit) == (False, True)
    assert dense.weights_pj == 138_357_544 * 640
    assert packed.weights_pj == pytest.approx(11_300_000 / 4 * 5)


def test_resnet101_has_the_units_of_the_slides():
    """52,672 outputs of convolutions, those of the shortcuts too, at any size of the image."""
    model = build("ResNet101", include_top=False, input_shape=(32, 32, 3))
    assert costs(model).conv_units == 52_672


@pytest.mark.parametrize(
    ("name", "gmacs", "parameters"),
    [
        # Howard et al. 2017: 569 M multiply-adds, 4.2 M parameters
        ("MobileNet", "0.569", 4_253_864),
        # Sandler et al. 2018: 300 M
        pytest.param("MobileNetV2", "0.30", 3_538_984, marks=pytest.mark.slow),
        # He et al. 2016, table 1: 7.6 · 10⁹ and 11.3 · 10⁹
        pytest.param("ResNet101", "7.6", 44_707_176, marks=pytest.mark.slow),
        pytest.param("ResNet152", "11.3", 60_419_944, marks=pytest.mark.slow),
        # What torchvision states for the same nets: 2.834, 5.713, 0.386
        pytest.param("DenseNet121", "2.834", 8_062_504, marks=pytest.mark.slow),
        pytest.param("InceptionV3", "5.713", 23_851_784, marks=pytest.mark.slow),
        pytest.param("EfficientNetB0", "0.386", 5_330_571, marks=pytest.mark.slow),
        # Chollet 2017 gives no operations; others count 8.4
        pytest.param("Xception", "8.4", 22_910_480, marks=pytest.mark.slow),
    ],
)
def test_published_nets(name, gmacs, parameters):
    """To the digits that were published."""
    model = build(name)
    result = costs(model)
    assert result.total.parameters == model.count_params() == parameters
    digits = len(gmacs.partition(".")[2])
    assert f"{result.total.macs / 1e9:.{digits}f}" == gmacs
    assert result.unknown == ()


def test_resnet50_and_its_variant():
    """What is often called 4.1 GMAC has the strides of 2 in the 3 × 3 convolutions ("v1.5", of torchvision).

    Keras has the paper's own net, with the strides in the 1 × 1 convolutions before them: 3.86 (3.8 in the paper).
    """
    model = build("ResNet50")
    assert costs(model).total.macs == 3_857_973_248
    config = model.get_config()
    for layer in config["layers"]:
        if layer["name"].endswith("_block1_1_conv"):
            layer["config"]["strides"] = (1, 1)
        if layer["name"].endswith("_block1_2_conv") and not layer["name"].startswith("conv2"):
            layer["config"]["strides"] = (2, 2)
    assert costs(keras.Model.from_config(config)).total.macs == 4_089_184_256


def profiled(model) -> int:
    """Floating-point operations by TensorFlow's profiler: of the operators that it has a formula for."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options, cmd="op").total_float_ops


def all_layers(model):
    for layer in model.layers:
        yield from all_layers(layer) if isinstance(layer, keras.Model) else [layer]


def uncounted_activations(model) -> int:
    """The profiler has no formula for ReLU, sigmoid and tanh; `costs` counts one for each element."""
    names = ("relu", "relu6", "sigmoid", "tanh")
    found = [layer for layer in all_layers(model) if isinstance(layer, layers.ReLU)]
    found += [
        layer for layer in all_layers(model) if getattr(getattr(layer, "activation", None), "__name__", "") in names
    ]
    return sum(math.prod(layer.output.shape[1:]) for layer in found)


def folded_normalization(model) -> int:
    """What Keras computes for each channel of a batch normalization anew, and `costs` takes for constant.

    scale = gamma · rsqrt(variance + epsilon), offset = beta - mean · scale; an rsqrt is 2.
    """
    found = [layer for layer in all_layers(model) if isinstance(layer, layers.BatchNormalization)]
    return sum(layer.moving_mean.shape[0] * (5 + layer.scale) for layer in found)


@pytest.mark.parametrize(
    "name",
    [
        "MobileNet",
        "VGG16",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet50", "MobileNetV2", "DenseNet121")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("Xception", "InceptionV3", "ResNet50V2", "VGG19")),
    ],
)
def test_the_profiler_counts_the_same(name):
    """Equal to the operation, but for what one of them leaves out."""
    model = build(name, input_shape=(96, 96, 3), classes=10)
    assert costs(model).total.flops - uncounted_activations(model) + folded_normalization(model) == profiled(model)


def block(x):
    x = layers.SeparableConv2D(6, 3, use_bias=False)(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False)(x)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(x)])
    x = layers.AveragePooling2D(2)(x)
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same")(x)  # groups run in a function that no profiler looks into
    return layers.Conv2D(4, 3, activation="tanh")(x) + 1.0


def volume(x):
    x = layers.Reshape((4, 4, 4, 4))(x)
    return layers.Conv3D(5, 2, padding="same", strides=2)(x)


def tokens(x):
    """The profiler counts the products of einsum where TensorFlow makes a MatMul of it."""
    x = layers.Reshape((16, 16))(x)
    return layers.Dense(5, activation="softmax", use_bias=False)(x)


@pytest.mark.parametrize("make", [block, volume, tokens], ids=lambda make: make.__name__)
def test_the_profiler_counts_the_same_for_layers_of_other_kinds(make):
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, make(inputs))
    assert costs(model).total.flops - uncounted_activations(model) == profiled(model)


def test_the_profiler_counts_the_same_in_attention_but_scores():
    inputs = keras.Input((16, 8))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 4, use_bias=False)(inputs, inputs))
    products = 2 * 2 * (2 * 16 * 16 * 4)  # query · key and weights · value are an Einsum, which has no formula
    scale = 16 * 2 * 4  # of the query; Keras scales the scores, 2 · 16 · 16
    assert costs(model).total.flops - products - scale + 2 * 16 * 16 == profiled(model)
