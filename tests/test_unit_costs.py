"""What each unit contributes to a model's costs, against smaller models."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_prune.graph import dependencies
from keras_prune.layer_costs import channel_costs, costs, unit_costs
from keras_prune.layer_costs.units import QUANTITIES
from keras_prune.shrinking import shrink


def part(variable, axis, units):
    return types.SimpleNamespace(variable=variable, axis=axis, units=np.array(units), zeroed=True)


def totals_of(model):
    total = costs(model).total
    memory = total.parameter_bytes + total.activation_bytes
    values = (total.macs, total.flops, total.parameters, total.parameter_bytes, total.activations, memory)
    return dict(zip(QUANTITIES, (*values, total.bandwidth), strict=True))


@pytest.fixture(scope="module")
def two_layers():
    """7 inputs -> 3 hidden (units 0, 1, 2) -> 2 outputs."""
    model = keras.Sequential([keras.Input((7,)), layers.Dense(3, activation="relu"), layers.Dense(2)])
    first, second = model.layers
    parts = [part(first.kernel, 1, [0, 1, 2]), part(first.bias, 0, [0, 1, 2]), part(second.kernel, 0, [0, 1, 2])]
    return model, types.SimpleNamespace(parts=tuple(parts), num_units=3)


def test_a_unit_by_hand(two_layers):
    found = unit_costs(*two_layers)
    # A hidden unit: 7 inputs and 2 outputs; its bias and its ReLU; 10 weights; one activation, written and read.
    assert found["macs"].tolist() == [9, 9, 9]
    assert found["flops"].tolist() == pytest.approx([20, 20, 20])
    assert found["parameters"].tolist() == pytest.approx([10, 10, 10])
    assert found["bytes"].tolist() == pytest.approx([40, 40, 40])
    assert found["activations"].tolist() == pytest.approx([1, 1, 1])
    assert found["memory"].tolist() == pytest.approx([44, 44, 44])
    assert found["bandwidth"].tolist() == pytest.approx([48, 48, 48])


def test_totals_without_some_units_by_hand(two_layers):
    function = channel_costs(*two_layers)
    assert function.totals() == totals_of(two_layers[0])
    assert function.totals(np.array([True, False, False])) == {
        "macs": 7 + 2,
        "flops": 2 * 9 + 1 + 1 + 2,
        "parameters": 8 + 4,
        "bytes": 48,
        "activations": 3,
        "memory": 60,
        "bandwidth": 48 + 4 * (7 + 1 + 1 + 2),
    }


def test_kept_is_one_truth_value_for_each_unit(two_layers):
    function = channel_costs(*two_layers)
    for kept in (np.ones(2, bool), np.ones(3)):
        with pytest.raises(ValueError, match="kept: expected an array of 3 truth values, one for each unit"):
            function.totals(kept)


def test_a_unit_on_both_axes_of_a_kernel_is_counted_once():
    inputs = keras.Input((6, 2))
    model = keras.Model(inputs, layers.SimpleRNN(3, use_bias=False)(inputs))
    cell = model.layers[1].cell
    parts = [part(cell.kernel, 1, [0, 1, 2]), *(part(cell.recurrent_kernel, axis, [0, 1, 2]) for axis in (0, 1))]
    found = unit_costs(model, types.SimpleNamespace(parts=parts, num_units=3))
    assert found["parameters"].tolist() == pytest.approx([2 + 9 - 4] * 3)


def conv(x, filters, **kwargs):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **kwargs)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def residual():
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8)
    y = conv(conv(x, 6), 8)
    x = layers.MaxPooling2D(2)(x + y)
    scale = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Flatten()(layers.Dropout(0.2)(x * scale))
    return keras.Model(inputs, layers.Dense(5)(x))


def dense_block():
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 8)
    for _ in range(2):
        x = layers.Concatenate()([x, conv(x, 4)])
    x = conv(layers.DepthwiseConv2D(3, padding="same")(x), 6, strides=2)
    x = layers.Conv2DTranspose(4, 2, strides=2, activation="relu")(layers.SeparableConv2D(8, 3, padding="same")(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def clips():
    """A small R3DCNN: convolutions at each step, then a GRU."""
    inputs = keras.Input((5, 8, 8, 1))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"))(inputs)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.GRU(4, return_sequences=True)(layers.Dense(5, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(3)(x)))


def shared():
    a, b = keras.Input((4,)), keras.Input((4,))
    encoder = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(5)])
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([encoder(a), encoder(b)])))


def shuffle():
    inputs = keras.Input((8, 8, 3))
    first, second = ops.split(conv(inputs, 8), 2, axis=-1)
    x = layers.Concatenate()([first, conv(second, 4)])
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((8, 8, 2, 4))(x))
    x = conv(layers.Reshape((8, 8, 8))(x), 6)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def attention():
    inputs = keras.Input((5, 8))
    x = layers.Dense(12)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 3)(x, x))
    return keras.Model(inputs, layers.Dense(3)(layers.Bidirectional(layers.LSTM(4))(x)))


def grouped():
    inputs = keras.Input((8, 8, 4))
    x = ops.relu(layers.Conv2D(6, 1)(conv(conv(inputs, 8), 8, groups=4)))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.PReLU(shared_axes=[1, 2])(x))))


NETS = [residual, dense_block, clips, shared, shuffle, attention, grouped]


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_totals_are_those_of_the_model_that_shrink_makes(make):
    keras.utils.set_random_seed(0)
    check_against_shrink(make())


FAMILIES = (
    "VGG16 ResNet50V2 MobileNetV2 MobileNetV3Small EfficientNetB0 EfficientNetV2B0 DenseNet121 InceptionV3".split()
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "InceptionResNetV2", "Xception", "NASNetMobile", "ConvNeXtTiny"])
def test_totals_are_those_of_the_model_that_shrink_makes_of_published_nets(name):
    check_against_shrink(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10))


def check_against_shrink(model):
    found = dependencies(model)
    function = channel_costs(model, found)
    assert function.totals() == totals_of(model)
    random = np.random.default_rng(0)
    removed = np.zeros(found.num_units, bool)
    for group in found.free:
        removed[random.permutation(group.units)[: (len(group.units) + 1) // 2]] = True
    kept = found.keep(removed)
    assert not kept.all()
    found.set_zero(~kept)
    assert function.totals(kept) == totals_of(shrink(model))


@pytest.mark.parametrize("make", [residual, clips], ids=lambda make: make.__name__)
def test_a_unit_saves_what_is_missing_without_it(make):
    model = make()
    found = dependencies(model)
    function = channel_costs(model, found)
    saved = function.units()
    for unit in range(found.num_units):
        kept = np.ones(found.num_units, bool)
        kept[unit] = False
        for name, total in function.totals(kept).items():
            assert function.totals()[name] - saved[name][unit] == pytest.approx(total, abs=0.51)  # of a whole number


def test_units_of_a_trunk_and_within_a_block():
    model = residual()
    found = dependencies(model)
    macs = unit_costs(model, found)["macs"]
    by_size = {len(group.units): macs[group.units] for group in found.free}
    # 64 places: a 3 × 3 kernel from 3 inputs, one to and one from 6 channels; the scale's Dense(8) has the unit as an
    # input and as an output; 16 places of Flatten feed 5 outputs.
    assert by_size[8].tolist() == [64 * 9 * (3 + 6 + 6) + (8 + 8 - 1) + 16 * 5] * 8
    assert by_size[6].tolist() == [64 * 9 * (8 + 8)] * 6


def test_an_open_size_and_a_layer_of_the_users_own_are_refused():
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.Conv1D(4, 3), layers.GlobalMaxPooling1D(), layers.Dense(2)]
    )
    found = dependencies(model)
    with pytest.raises(ValueError, match="every dimension"):
        unit_costs(model, found)
    assert unit_costs(model, found, input_shape=(5, 3))["macs"].tolist()[:4] == [3 * 9 + 2] * 4
    inputs = keras.Input((4,))
    own = keras.Model(inputs, layers.Lambda(lambda x: x, name="own")(layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match=r"operations are known, got unknown ones in \['own'\]"):
        unit_costs(own, types.SimpleNamespace(parts=(), num_units=0))
