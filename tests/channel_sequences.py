"""Models of sequences: recurrent layers, attention, layers applied at each step."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from channel_models import Case, conv, register  # type: ignore[import-not-found]
from keras import layers, ops

CASES: dict[str, Case] = {}
case = register(CASES)
STEPS, FEATURES, WORDS = 6, 5, 12


def sequence_model(*stack: Any) -> Any:
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *stack, layers.Dense(5, name="logits")])


@case(units=8 + 6)
def gru() -> Any:
    return sequence_model(layers.GRU(8, return_sequences=True, unroll=True), layers.GRU(6, unroll=True))


@case(units=8 + 6)
def gru_reset_before() -> Any:
    return sequence_model(layers.GRU(8, return_sequences=True, reset_after=False), layers.GRU(6, go_backwards=True))


@case(units=8 + 6)
def lstm() -> Any:
    return sequence_model(
        layers.LSTM(8, return_sequences=True, use_bias=False, unroll=True), layers.LSTM(6, unroll=True)
    )


@case(units=8 + 6)
def simple_rnn() -> Any:
    return sequence_model(layers.SimpleRNN(8, return_sequences=True), layers.SimpleRNN(6, activation="relu"))


@case(units=8 + 7)
def convolution_then_gru() -> Any:
    return sequence_model(layers.Conv1D(8, 3, activation="relu"), layers.BatchNormalization(), layers.GRU(7))


@case(units=6 + 4)
def bidirectional() -> Any:
    """Keras wants as many neurons of one direction as of the other: they go in pairs."""
    return sequence_model(
        layers.Bidirectional(layers.LSTM(6, return_sequences=True)), layers.Bidirectional(layers.GRU(4))
    )


@case(units=8 + 6)
def bidirectional_sum() -> Any:
    """The directions are added: their neurons go together."""
    return sequence_model(
        layers.Bidirectional(layers.GRU(8, return_sequences=True), merge_mode="sum"),
        layers.Bidirectional(layers.SimpleRNN(6), merge_mode="ave"),
    )


@case(units=8 + 6 + 7)
def cells() -> Any:
    """What `LSTM`, `GRU` and `SimpleRNN` are made of."""
    made = [layers.LSTMCell(8), layers.GRUCell(6, use_bias=False), layers.SimpleRNNCell(7)]
    stack = [layers.RNN(cell, return_sequences=cell is not made[-1], unroll=True) for cell in made]
    return sequence_model(*stack)


@case(units=8 + 6 + 4)
def stacked_cells() -> Any:
    """Each reads the one before it; in another configuration than those of the layers around it."""
    stacked = layers.StackedRNNCells([layers.GRUCell(8), layers.LSTMCell(6)])
    return sequence_model(layers.RNN(stacked, return_sequences=True, unroll=True), layers.LSTM(4, unroll=True))


@case()
def states_of_cells() -> Any:
    """As `states`."""
    source, target = keras.Input((STEPS, FEATURES), name="source"), keras.Input((4, 3), name="target")
    _, h, c = layers.RNN(layers.LSTMCell(8), return_state=True, unroll=True)(source)
    decoded = layers.RNN(layers.LSTMCell(8), return_sequences=True, unroll=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(5)(decoded))


@case()
def states() -> Any:
    """An encoder's states begin a decoder."""
    source, target = keras.Input((STEPS, FEATURES), name="source"), keras.Input((4, 3), name="target")
    _, h, c = layers.LSTM(8, return_state=True)(source)
    decoded = layers.LSTM(8, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], layers.Dense(5)(decoded))


@case(units=2 * 8 + 6, narrower=("three", "five"))
def text() -> Any:
    """Two widths of convolution over word vectors, which may go too."""
    words = keras.Input((STEPS,), dtype="int32", name="words")
    x = layers.Embedding(WORDS, 6, name="embedding")(words)
    branches = [layers.Conv1D(8, size, activation="relu", name=name)(x) for size, name in [(3, "three"), (5, "five")]]
    joined = layers.Concatenate()([layers.GlobalMaxPooling1D()(branch) for branch in branches])
    return keras.Model(words, layers.Dense(5)(joined))


def tied(*, tie_weights: bool) -> Any:
    """Word vectors that score words, too: what comes between has their width."""
    if not hasattr(layers, "ReversibleEmbedding"):
        pytest.skip("Keras has no ReversibleEmbedding yet")
    words = keras.Input((STEPS,), dtype="int32", name="words")
    vectors = layers.ReversibleEmbedding(WORDS, 8, tie_weights=tie_weights)
    x = vectors(words)
    x = x + layers.Dense(8)(layers.Dense(6, activation="relu")(x))
    return keras.Model(words, vectors(x, reverse=True))


@case(units=8 + 6)
def tied_words() -> Any:
    return tied(tie_weights=True)


@case(units=8 + 6)
def untied_words() -> Any:
    return tied(tie_weights=False)


@case(units=8 + 6)
def adaptive_pooling() -> Any:
    """To given sizes, whatever comes in."""
    if not hasattr(layers, "AdaptiveAveragePooling2D"):
        pytest.skip("Keras has no adaptive pooling yet")
    x = inputs = keras.Input((7, 8, 3))
    x = layers.AdaptiveAveragePooling2D((4, 3))(conv(8, activation="relu")(x))
    x = layers.AdaptiveMaxPooling2D(2)(conv(6)(x))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))


@case(units=6 + 8)
def masked_text() -> Any:
    """Padding is masked on its way to the recurrent layer."""
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32"),
            layers.Embedding(WORDS, 6, mask_zero=True),
            layers.LSTM(8),
            layers.Dense(5),
        ]
    )


@case(units=8 + 7 + 6)
def time_distributed() -> Any:
    return sequence_model(
        layers.TimeDistributed(layers.Dense(8, activation="relu")),
        layers.TimeDistributed(layers.BatchNormalization()),
        layers.TimeDistributed(layers.Dense(7)),
        layers.GRU(6),
    )


@case(units=6 + 8 + 7)
def frames() -> Any:
    """A small network on each frame of a clip, then a recurrent layer."""
    network = keras.Sequential(
        [keras.Input((8, 8, 3)), conv(6, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(8)]
    )
    stack = [layers.TimeDistributed(network), layers.LSTM(7), layers.Dense(5)]
    return keras.Sequential([keras.Input((4, 8, 8, 3)), *stack])


@case(units=6 + 5 + 7)
def frames_by_layer() -> Any:
    stack = [layers.TimeDistributed(layer) for layer in (conv(6, strides=2, activation="relu"), layers.MaxPooling2D())]
    stack += [layers.TimeDistributed(conv(5, activation="relu")), layers.TimeDistributed(layers.Flatten())]
    return keras.Sequential([keras.Input((4, 8, 8, 3)), *stack, layers.GRU(7), layers.Dense(5)])


@case(units=4 + 7)
def clip() -> Any:
    """R3DCNN's form: 3-D convolutions, each step flattened by Reshape, a recurrent layer."""
    stack = [layers.Conv3D(4, 3, padding="same", activation="relu"), layers.MaxPooling3D((1, 4, 4))]
    stack += [layers.Reshape((4, 16)), layers.GRU(7), layers.Dense(5)]
    return keras.Sequential([keras.Input((4, 8, 8, 2)), *stack])


@case(units=8 + 2 + 4)
def places_of_any_size() -> Any:
    """Each place of a picture whose sides are not known is a step; of six channels each third goes with its like."""
    x = inputs = keras.Input((None, None, 3))
    x = layers.Reshape((-1, 8))(conv(8, activation="relu")(x))
    x = layers.Reshape((-1, 3, 2))(layers.Dense(6, activation="relu", name="threes")(x))
    x = layers.Reshape((-1, 6))(x)
    x = layers.Dense(4, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


@case(units=8 + 6)
def places_as_examples() -> Any:
    """The batch takes in the places, and gives them back."""
    x = inputs = keras.Input((6, 6, 3))
    x = ops.reshape(conv(8, activation="relu")(x), (-1, 8))
    x = ops.reshape(layers.Dense(6, activation="relu")(x), (-1, 36, 6))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


_KEY_BIAS = "adds the same to all scores of a query: softmax takes it away"


@case(narrower=("features", "attention"), unseen={"attention/key/bias": _KEY_BIAS})
def attention() -> Any:
    """Heads are units, and so are the features that they read and those that are read."""
    x = inputs = keras.Input((STEPS, FEATURES))
    x = layers.Dense(8, name="features")(x)
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


@case(narrower=("inner",), whole=("embed",), unseen={"attention/key/bias": _KEY_BIAS})
def transformer() -> Any:
    """ViT's block: normalized over the trunk, which stays; heads and the inner layer may go."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4, name="embed")(x))
    normal = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(4, 3, name="attention")(normal, normal)
    inner = layers.Dense(12, activation="gelu", name="inner")(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(8)(inner)]))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


@case(narrower=("query", "key"), unseen={"attention/key/bias": _KEY_BIAS})
def cross_attention() -> Any:
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 7):
        pytest.skip("Keras attends to values of another width than the queries' from 3.7 on")
    query, value = keras.Input((3, FEATURES), name="words"), keras.Input((STEPS, 4), name="memory")
    queries, values = layers.Dense(8, name="query")(query), layers.Dense(10, name="key")(value)
    x = layers.MultiHeadAttention(4, 3, value_dim=2, name="attention")(queries, values)
    return keras.Model([query, value], layers.Dense(5)(x))


@case()
def plain_attention() -> Any:
    """Dot products over features that both have."""
    query, value = keras.Input((3, FEATURES), name="query"), keras.Input((STEPS, FEATURES), name="value")
    x = layers.Attention()([layers.Dense(8)(query), layers.Dense(8)(value)])
    return keras.Model([query, value], layers.Dense(5)(layers.Dense(7, activation="relu")(x)))


@case()
def grouped_query_attention() -> Any:
    x = inputs = keras.Input((STEPS, FEATURES))
    x = layers.GroupQueryAttention(3, 4, 2)(layers.Dense(8)(x), layers.Dense(8)(x))
    return keras.Model(inputs, layers.Dense(5)(layers.Dense(6, activation="relu")(x)))


@case(units=8 + 6)
def einsum() -> Any:
    return keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            layers.EinsumDense("abc,cd->abd", output_shape=(STEPS, 8), bias_axes="d", activation="relu"),
            layers.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d", activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(5),
        ]
    )


@case()
def einsum_heads() -> Any:
    """Two output axes, made and read by equations."""
    return keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            layers.EinsumDense("abc,cde->abde", output_shape=(None, 4, 3), bias_axes="de"),
            layers.EinsumDense("abde,def->abf", output_shape=(None, 6), bias_axes="f", activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(5),
        ]
    )


@case(units=5 + 6)
def convolution_with_memory() -> Any:
    return keras.Sequential(
        [
            keras.Input((4, 8, 8, 2)),
            layers.ConvLSTM2D(5, 3, return_sequences=True, padding="same"),
            layers.Conv3D(6, 1, activation="relu"),
            layers.GlobalAveragePooling3D(),
            layers.Dense(5),
        ]
    )


@case(units=4 + 5 + 3)
def convolutions_with_memory() -> Any:
    """One after another, in one and two dimensions; the last gives its states too."""
    clip = keras.Input((4, 7, 8, 2))
    x = layers.ConvLSTM2D(4, 3, return_sequences=True, strides=2)(clip)
    x = layers.ConvLSTM2D(5, 2, return_sequences=True, use_bias=False, activation="relu")(x)
    x = layers.Reshape((4, -1, 5))(x)
    x, h, c = layers.ConvLSTM1D(3, 2, return_state=True)(x)
    return keras.Model(clip, layers.Dense(5)(layers.GlobalAveragePooling1D()(layers.Concatenate()([x, h + c]))))
