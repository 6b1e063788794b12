"""Costs by layer, against values computed by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_prune
from keras_prune.layer_costs import costs


def model_of(layer, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


# Layer, shape of an example -> MACs, other operations, parameters, elements of the output, units.
CASES = {
    "dense": (layers.Dense(5), (7,), 35, 5, 40, 5, 5),
    "dense at each of 3 places": (layers.Dense(5, use_bias=False), (3, 7), 3 * 35, 0, 35, 15, 5),
    "dense with ReLU": (layers.Dense(5, activation="relu"), (7,), 35, 5 + 5, 40, 5, 5),
    "dense with softmax": (layers.Dense(5, activation="softmax"), (7,), 35, 5 + 25, 40, 5, 5),
    # abc, cde -> abde: 3 · 8 inputs, each with 2 · 4 outputs
    "einsum": (layers.EinsumDense("abc,cde->abde", (3, 2, 4), bias_axes="de"), (3, 8), 192, 24, 64 + 8, 24, 8),
    "einsum that sums over places": (layers.EinsumDense("abc,bcd->ad", (4,)), (3, 8), 96, 0, 96, 4, 4),
    "einsum with an ellipsis": (layers.EinsumDense("...x,xy->...y", (4,)), (2, 3, 8), 192, 0, 32, 24, 4),
    # 8 - 3 + 1 = 6 places; 3 · 2 · 4 = 24 weights
    "conv1d": (layers.Conv1D(4, 3), (8, 2), 6 * 24, 24, 24 + 4, 24, 4),
    "conv2d": (layers.Conv2D(4, 3), (8, 8, 2), 36 * 72, 144, 72 + 4, 144, 4),
    "conv2d, same, strides": (layers.Conv2D(4, 3, strides=2, padding="same"), (7, 7, 2), 16 * 72, 64, 76, 64, 4),
    "conv2d, dilated": (layers.Conv2D(4, 3, dilation_rate=2, use_bias=False), (8, 8, 2), 16 * 72, 0, 72, 64, 4),
    "conv2d, 2 groups": (layers.Conv2D(4, 3, groups=2, use_bias=False), (8, 8, 2), 36 * 36, 0, 36, 144, 4),
    "conv2d, 3 × 1": (layers.Conv2D(4, (3, 1), use_bias=False), (8, 8, 2), 48 * 24, 0, 24, 192, 4),
    "conv3d": (layers.Conv3D(4, 2, use_bias=False), (4, 4, 4, 2), 27 * 64, 0, 64, 108, 4),
    # Each of the 16 inputs is spread over the kernel: 16 · 9 · 2 · 4; the output is 9 × 9.
    "conv2d, transposed": (layers.Conv2DTranspose(4, 3, strides=2), (4, 4, 2), 16 * 72, 324, 76, 324, 4),
    "conv1d, transposed": (layers.Conv1DTranspose(4, 2, strides=2, use_bias=False), (4, 2), 4 * 16, 0, 16, 32, 4),
    "depthwise": (layers.DepthwiseConv2D(3, use_bias=False), (8, 8, 2), 36 * 18, 0, 18, 72, 0),
    "depthwise, 2 for each": (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 2), 36 * 36, 144, 40, 144, 0),
    "depthwise, 1-D": (layers.DepthwiseConv1D(3, use_bias=False), (8, 2), 6 * 6, 0, 6, 12, 0),
    # 3 · 3 · 2 depthwise and 2 · 4 pointwise weights at 36 places
    "separable": (layers.SeparableConv2D(4, 3, use_bias=False), (8, 8, 2), 36 * 26, 0, 26, 144, 4),
    "separable, 1-D": (layers.SeparableConv1D(4, 3), (8, 2), 6 * (6 + 8), 24, 14 + 4, 24, 4),
    "embedding": (layers.Embedding(10, 4), (3,), 0, 0, 40, 12, 0),
    "max pooling": (layers.MaxPooling2D(2), (8, 8, 2), 0, 4 * 32, 0, 32, 0),
    "average pooling, 3 by 2": (layers.AveragePooling2D(3, strides=2), (7, 7, 2), 0, 9 * 18, 0, 18, 0),
    "max pooling, 1-D": (layers.MaxPooling1D(2), (8, 2), 0, 2 * 8, 0, 8, 0),
    "global pooling": (layers.GlobalAveragePooling2D(), (8, 8, 2), 0, 128, 0, 2, 0),
    "batch normalization": (layers.BatchNormalization(), (8, 8, 2), 0, 2 * 128, 8, 128, 0),
    "layer normalization": (layers.LayerNormalization(), (3, 8), 0, 8 * 24, 16, 24, 0),
    "layer normalization, no scale": (layers.LayerNormalization(scale=False), (3, 8), 0, 7 * 24, 8, 24, 0),
    "group normalization": (layers.GroupNormalization(2), (4, 4, 8), 0, 8 * 128, 16, 128, 0),
    "ReLU": (layers.ReLU(), (3, 8), 0, 24, 0, 24, 0),
    "softmax": (layers.Softmax(), (3, 8), 0, 5 * 24, 0, 24, 0),
    "activation, by name": (layers.Activation("softmax"), (3, 8), 0, 5 * 24, 0, 24, 0),
    "activation, linear": (layers.Activation("linear"), (3, 8), 0, 0, 0, 24, 0),
    "PReLU": (layers.PReLU(), (3, 8), 0, 24, 24, 24, 0),
    "rescaling": (layers.Rescaling(2.0, 1.0), (3, 8), 0, 48, 0, 24, 0),
    "padding": (layers.ZeroPadding2D(1), (4, 4, 2), 0, 0, 0, 72, 0),
    "upsampling": (layers.UpSampling2D(2), (4, 4, 2), 0, 0, 0, 128, 0),
    "upsampling, bilinear": (layers.UpSampling2D(2, interpolation="bilinear"), (4, 4, 2), 4 * 128, 0, 0, 128, 0),
    "reshape": (layers.Reshape((4, 6)), (3, 8), 0, 0, 0, 0, 0),
    "flatten": (layers.Flatten(), (3, 8), 0, 0, 0, 0, 0),
    "dropout": (layers.Dropout(0.5), (3, 8), 0, 0, 0, 0, 0),
    # 6 steps of 3 units with 2 inputs: kernels 2 · 3 and 3 · 3 for each gate; sums, activations, bias
    "simple RNN": (layers.SimpleRNN(3), (6, 2), 6 * 15, 6 * 3 * (2 + 1), 18, 3, 3),
    "LSTM": (layers.LSTM(3), (6, 2), 6 * 60, 6 * 3 * (13 + 4), 72, 3, 3),
    "LSTM, sequences": (layers.LSTM(3, return_sequences=True), (6, 2), 6 * 60, 6 * 3 * 17, 72, 18, 3),
    "GRU": (layers.GRU(3), (6, 2), 6 * 45, 6 * 3 * (11 + 6), 63, 3, 3),
    "GRU, one bias": (layers.GRU(3, reset_after=False), (6, 2), 6 * 45, 6 * 3 * (11 + 3), 54, 3, 3),
    "RNN of a cell": (layers.RNN(layers.LSTMCell(3)), (6, 2), 6 * 60, 6 * 3 * 17, 72, 3, 3),
    "RNN of two cells": (
        layers.RNN([layers.GRUCell(3, use_bias=False), layers.SimpleRNNCell(2, use_bias=False)]),
        *((6, 2), 6 * (45 + 10), 6 * (3 * 11 + 2 * 2), 45 + 10, 2, 5),
    ),
    "bidirectional": (layers.Bidirectional(layers.LSTM(3)), (6, 2), 2 * 360, 2 * 306, 144, 6, 6),
    "bidirectional sum": (
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="sum"),
        *((6, 2), 2 * 360, 2 * 306 + 18, 144, 18, 6),
    ),
    # 5 steps at 16 places: kernels 3 · 3 · 2 · 12 and 3 · 3 · 3 · 12
    "ConvLSTM": (
        layers.ConvLSTM2D(3, 3, padding="same"),
        *((5, 4, 4, 2), 5 * 16 * 540, 5 * 16 * 3 * 17, 552, 48, 3),
    ),
    "time distributed": (layers.TimeDistributed(layers.Dense(5)), (6, 7), 6 * 35, 6 * 5, 40, 30, 5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_costs_of_each_kind_of_layer(case):
    layer, shape, macs, others, parameters, activations, units = case
    model = model_of(layer, shape, dtype="int32" if isinstance(layer, layers.Embedding) else "float32")
    result = costs(model)
    (row,) = result.rows
    assert (row.macs, row.flops) == (macs, 2 * macs + others)
    assert (row.parameters, row.activations, row.units) == (parameters, activations, units)
    assert parameters == model.count_params()
    assert (row.parameter_bytes, row.activation_bytes) == (4 * parameters, 4 * activations)
    assert result.unknown == ()


OLD = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 7)


@pytest.mark.skipif(OLD, reason="Keras attends to values of another width than the queries' from 3.7 on")
def test_attention_counts_projections_scores_and_softmax():
    queries, values = keras.Input((5, 8)), keras.Input((7, 6))
    layer = layers.MultiHeadAttention(2, 4, value_dim=3, name="attention")
    result = costs(keras.Model([queries, values], layer(queries, values)))
    projections = 5 * 8 * 2 * 4 + 7 * 6 * 2 * 4 + 7 * 6 * 2 * 3 + 5 * 2 * 3 * 8
    scores, weighted = 2 * 5 * 7 * 4, 2 * 5 * 7 * 3
    biases = 5 * 8 + 7 * 8 + 7 * 6 + 5 * 8
    assert result["attention"].macs == projections + scores + weighted
    # The query is scaled before; softmax is 5 for each pair of places and head.
    assert result["attention"].flops == 2 * (projections + scores + weighted) + biases + 5 * 8 + 5 * 2 * 5 * 7
    assert result["attention"].units == 2
    assert result["attention"].activations == 5 * 8


def test_group_query_attention_has_fewer_keys_than_queries():
    inputs = keras.Input((5, 8))
    layer = layers.GroupQueryAttention(3, 4, 2, use_bias=False)
    (row,) = costs(keras.Model(inputs, layer(inputs, inputs))).rows
    projections = 5 * 8 * 12 + 2 * 5 * 8 * 6 + 5 * 12 * 8
    assert row.macs == projections + 2 * 4 * 5 * 5 * 3
    assert row.parameters == 8 * 12 + 2 * 8 * 6 + 12 * 8


def test_attention_along_one_axis_runs_along_the_others():
    inputs = keras.Input((3, 5, 8))
    layer = layers.MultiHeadAttention(2, 4, attention_axes=(2,), use_bias=False)
    (row,) = costs(keras.Model(inputs, layer(inputs, inputs))).rows
    assert row.macs == 4 * 15 * 8 * 8 + 2 * 3 * 2 * 5 * 5 * 4


def test_attention_without_kernels():
    queries, values = keras.Input((5, 8)), keras.Input((7, 8))
    luong, bahdanau = (
        layers.Attention()([queries, values]),
        layers.AdditiveAttention(use_scale=False)([queries, values]),
    )
    (first,), (second,) = (costs(keras.Model([queries, values], result)).rows for result in (luong, bahdanau))
    assert (first.macs, first.flops) == (2 * 35 * 8, 4 * 35 * 8 + 5 * 35)
    assert (second.macs, second.flops) == (35 * 8, 2 * 35 * 8 + 35 * (3 * 8 + 5))


def test_merging_layers_and_operators():
    a, b = keras.Input((4, 8)), keras.Input((4, 8))
    results = {
        "layer add of 3": (layers.Add()([a, b, a]), 2 * 32, 32),
        "layer average": (layers.Average()([a, b]), 2 * 32, 32),
        "layer concatenate": (layers.Concatenate()([a, b]), 0, 64),
        "layer dot": (layers.Dot(axes=2)([a, b]), 2 * 16 * 8, 16),
        "a + b": (a + b, 32, 32),
        "a * 2": (a * 2.0, 32, 32),
        "relu": (ops.relu(a), 32, 32),
        "softmax": (ops.softmax(a), 5 * 32, 32),
        "mean": (ops.mean(a, axis=-1), 32, 4),
        "variance": (ops.var(a, axis=-1), 4 * 32, 4),
        "pad": (ops.pad(a, ((0, 0), (1, 1), (0, 0))), 0, 48),
        "concatenate": (ops.concatenate([a, b], axis=1), 0, 64),
        "transpose": (ops.transpose(a, (0, 2, 1)), 0, 32),
        "reshape": (ops.reshape(a, (-1, 32)), 0, 0),
        "item": (a[:, :2], 0, 16),
        "split": (ops.split(a, 2, axis=-1)[0], 0, 32),
        "matmul": (ops.matmul(a, ops.transpose(b, (0, 2, 1))), 2 * 16 * 8, 16),
        "einsum": (ops.einsum("bij,bkj->bik", a, b), 2 * 16 * 8, 16),
        "max pool": (ops.max_pool(a, 2), 2 * 16, 16),
    }
    for name, (tensor, flops, activations) in results.items():
        *_, row = costs(keras.Model([a, b], tensor)).rows
        assert (name, row.flops, row.activations) == (name, flops, activations)


def test_traffic_is_inputs_weights_and_outputs():
    (row,) = costs(model_of(layers.Dense(5), (7,))).rows
    assert (row.activation_traffic, row.weight_traffic, row.bandwidth) == (4 * (7 + 5), 4 * 40, 4 * 52)
    a = keras.Input((8,))
    (row,) = costs(keras.Model(a, a + a)).rows  # one tensor, read once
    assert row.bandwidth == 4 * (8 + 8)
    (row,) = costs(model_of(layers.Reshape((2, 4)), (8,))).rows
    assert row.bandwidth == 0


def test_an_embedding_reads_the_rows_that_it_gives():
    (row,) = costs(model_of(layers.Embedding(1000, 4), (3,), dtype="int32")).rows
    assert (row.parameters, row.weight_traffic, row.activation_traffic) == (4000, 4 * 12, 4 * (3 + 12))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' quantize with NumPy 2
def test_bytes_follow_the_dtype():
    (row,) = costs(model_of(layers.Dense(5, dtype="float16"), (7,))).rows
    assert (row.parameter_bytes, row.activation_bytes, row.bandwidth) == (2 * 40, 2 * 5, 2 * (7 + 40 + 5))
    (row,) = costs(model_of(layers.Dense(5, dtype="mixed_float16"), (7,))).rows
    assert (row.parameter_bytes, row.activation_bytes, row.bandwidth) == (4 * 40, 2 * 5, 2 * 7 + 4 * 40 + 2 * 5)
    model = model_of(layers.Dense(5, name="dense"), (7,))
    model.layers[1].quantize("int8")
    assert costs(model)["dense"].macs == 35
    assert costs(model)["dense"].parameter_bytes == 35 + 4 * 5 + 4 * 5  # int8 kernel; float32 scales and bias


def test_a_shared_layer_computes_in_each_call_and_has_its_weights_once():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(3, name="shared")
    result = costs(keras.Model([a, b], [shared(a), shared(b)]))
    assert [(row.layer, row.macs, row.parameters, row.units) for row in result.rows] == [
        ("shared", 12, 15, 3),
        ("shared", 12, 0, 0),
    ]
    assert result["shared"].macs == 24
    assert result["shared"].weight_traffic == 2 * 60  # read in each call
    assert result.total.parameters == 15


def test_nested_models_and_time_steps():
    frames = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 3, name="conv"), layers.Flatten(name="flat")])
    frames.name = "frames"
    inputs = keras.Input((5, 4, 4, 2))
    x = layers.TimeDistributed(frames, name="steps")(inputs)
    head = keras.Sequential([keras.Input((5, 12)), layers.GRU(2, name="gru")], name="head")
    result = costs(keras.Model(inputs, head(x)))
    assert [row.layer for row in result.rows] == ["steps/frames/conv", "steps/frames/flat", "head/gru"]
    conv = result["conv"]
    assert (conv.times, conv.macs, conv.parameters, conv.shape) == (5, 5 * 4 * 54, 57, (2, 2, 3))
    assert conv.activation_traffic == 5 * 4 * (32 + 12)
    assert conv.weight_traffic == 4 * 57
    assert result["head/gru"] == result["gru"]
    assert "steps/frames/conv (5×)" in str(result)


class Twice(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="twice")
        self.inner = layers.Dense(4, use_bias=False, name="inner")

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x):
        return self.scale * self.inner(self.inner(x))


def test_a_layer_of_the_users_own_is_named_and_what_is_known_in_it_counted():
    result = costs(model_of(Twice(), (4,)))
    assert [(row.layer, row.macs, row.flops, row.parameters) for row in result.rows] == [
        ("twice", None, None, 4),
        ("twice/inner", 16, 32, 16),
        ("twice/inner", 16, 32, 0),
    ]
    assert result.unknown == ("twice",)
    assert result.total.flops == 64
    assert "?" in str(result)
    assert str(result).endswith("FLOPs unknown, not in the total: twice")
    with pytest.raises(ValueError, match=r"operations are known, got unknown ones in \('twice',\)"):
        result.energy(sram_bytes=1000)


class Loud(layers.Dense):
    """With Keras' own ``call``."""


class Own(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 2


def test_a_subclass_is_known_by_whose_call_it_has():
    assert costs(model_of(Loud(3), (4,))).rows[0].macs == 12
    assert costs(model_of(Own(3, name="own"), (4,))).unknown == ("own",)
    assert costs(model_of(layers.Lambda(lambda x: x + 1, name="function"), (4,))).unknown == ("function",)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.first = layers.Dense(3, name="first")
        self.unused = layers.Dense(2, name="unused")
        self.unused.build((None, 4))

    def call(self, x):
        return self.first(x) + 1


def test_a_subclassed_model_is_counted_from_what_it_calls():
    model = Subclassed()
    with pytest.raises(ValueError, match="expected one that is built"):
        costs(model)
    model(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="Subclassed 'mine' does not say its own, got None; give it without the batch"):
        costs(model)
    result = costs(model, input_shape=(4,))
    assert result.unknown == ("mine",)
    assert (result["first"].macs, result["(never called)"].parameters) == (12, 10)
    assert result.total.parameters == model.count_params()


def test_masks_are_not_seen():
    model = model_of(layers.Dense(5, name="dense"), (7,))
    before = costs(model)
    keras_prune.prune(model, 0.8)
    assert costs(model) == before
    wrapped = model_of(keras_prune.Prune(layers.Dense(5, name="dense")), (7,))
    assert costs(wrapped) == before


def test_the_model_is_as_it_was():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(inputs) + 1.0)
    before = [dict(vars(operation)) for operation in model.operations]
    costs(model)
    assert [dict(vars(operation)) for operation in model.operations] == before
