"""Little models of every kind, pruned, and what a packed SavedModel of them should compute."""

from __future__ import annotations

import keras
import numpy as np

from keras_prune.quantization import Codebook

layers = keras.layers


def prune(model, density=0.2):
    """Random weights, most of the matrices' zero; statistics that are no zeros and ones."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "float" not in variable.dtype:
            continue
        values = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        if len(variable.shape) >= 2:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def quantized_weights(model, *, dense=4, other=8):
    """Every weight of a model, those of two dimensions and more with the values of a codebook."""
    matrices = {
        id(weight)
        for layer in model._flatten_layers()
        if isinstance(layer, (layers.Dense, layers.EinsumDense))
        for weight in layer.weights
    }
    result = []
    for weight in model.weights:
        values = weight.numpy()
        if values.ndim >= 2 and "float" in weight.dtype:
            codes, codebook = Codebook(dense if id(weight) in matrices else other).fit(values.astype(np.float32))
            values = codebook.astype(values.dtype)[codes]
        result.append(values)
    return result


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape, name="x"), *stack])


def dense():
    return sequential((40,), layers.Dense(30, activation="relu"), layers.Dense(5, activation="softmax"))


def convolutional():
    return sequential(
        (12, 12, 3),
        layers.Conv2D(8, 3, strides=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, dilation_rate=2),
        layers.Flatten(),
        layers.Dense(6),
    )


def transposed():
    return sequential((4, 4, 5), layers.Conv2DTranspose(6, 3, strides=2), layers.SeparableConv2D(4, 3))


def recurrent():
    return sequential((7, 6), layers.Bidirectional(layers.GRU(5)))


def embedding():
    tokens = keras.Input((9,), dtype="int32", name="tokens")
    x = layers.Embedding(60, 8, mask_zero=True)(tokens)
    return keras.Model(tokens, layers.Dense(3)(layers.LSTM(6)(x)))


def attention():
    x = keras.Input((6, 16), name="x")
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    return keras.Model(x, layers.GlobalAveragePooling1D()(y))


def nested_and_shared():
    inner = keras.Sequential([keras.Input((16,)), layers.Dense(12, activation="tanh"), layers.Dense(16)])
    shared = layers.Dense(16)
    x = keras.Input((16,), name="x")
    return keras.Model(x, layers.Dense(4)(shared(inner(x)) + inner(shared(x))))


def several():
    left, right = keras.Input((8,), name="left"), keras.Input((6,), name="right")
    both = layers.Concatenate()([layers.Dense(10)(left), layers.Dense(10)(right)])
    outputs = {"sum": layers.Dense(2)(both), "product": layers.Dense(3)(both)}
    return keras.Model({"left": left, "right": right}, outputs)


def normalized():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(1).normal(3, 2, (50, 20)))
    return sequential((20,), norm, layers.Dense(16))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Makes its layers itself, and takes its input shape from the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(24, activation="relu"), layers.Dense(24)]
        self.head = layers.Dense(3)

    def call(self, x):
        for block in self.blocks:
            x = x + block(x)
        return [self.head(x), x]


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 24), np.float32))
    return model


def mixed_precision():
    policy = "mixed_bfloat16"
    return sequential((20,), layers.Dense(16, dtype=policy), layers.Dense(4, dtype=policy))


def half():
    return sequential((20,), layers.Dense(16, dtype="float16"), layers.Dense(4, dtype="float16"))


KINDS = {
    kind.__name__: kind
    for kind in (
        dense,
        convolutional,
        transposed,
        recurrent,
        embedding,
        attention,
        nested_and_shared,
        several,
        normalized,
        subclassed,
        mixed_precision,
        half,
    )
}
