"""Every kind of Keras layer with weights: pruned while training, wrapped, saved and loaded."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.allocation import kept_count
from keras_prune.callbacks import PruneCallback
from keras_prune.masks import mask_constraint, prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay
from keras_prune.surgery import prune, strip
from keras_prune.wrappers import Prune, wrap

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:__array__ implementation")]
RNG = np.random.default_rng(0)
BATCHES = 4


@keras.saving.register_keras_serializable("keras_prune_tests")
class TwoKernels(layers.Layer):
    """A user's own layer: weights made in build, a kernel of three dimensions, and a scale."""

    def build(self, input_shape):
        self.mix = self.add_weight(shape=(2, input_shape[-1], 4), name="mix")
        self.gamma = self.add_weight(shape=(2, 4), name="gamma", initializer="ones")
        self.built = True

    def call(self, x):
        return keras.ops.sum(keras.ops.einsum("bi,kio->bko", x, self.mix) * self.gamma, axis=1)


@keras.saving.register_keras_serializable("keras_prune_tests")
class Block(layers.Layer):
    """A user's own layer that holds others and has no build method."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.out = layers.Dense(5, "relu"), layers.Dense(4)

    def call(self, x):
        return self.out(self.hidden(x))


class FromData:
    """A model around one layer: (layer, input shape)."""

    def __init__(self, make, *shape, dtype="float32"):
        self.make, self.shape, self.dtype = make, shape, dtype

    def model(self):
        inputs = keras.Input(self.shape, dtype=self.dtype)
        return keras.Model(inputs, layers.Flatten()(self.make()(inputs)))

    def data(self):
        if self.dtype == "int32":
            return RNG.integers(0, 9, size=(4 * BATCHES, *self.shape))
        return RNG.normal(size=(4 * BATCHES, *self.shape)).astype("float32")


def attention(cls, *sizes):
    def make():
        layer = cls(*sizes)
        return lambda x: layer(x, x)

    return make


def stacked_cells():
    return layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)]))


def nested():
    return keras.Sequential([layers.Dense(4, "relu"), keras.Sequential([layers.Dense(5), layers.Dense(3)])])


def shared():
    layer = layers.Dense(6, name="shared")
    return lambda x: layers.Add()([layer(x), layer(layer(x))])


def normalized():
    stack = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.LayerNormalization(axis=[1, 2])]
    return keras.Sequential(stack)


KINDS = {
    "Dense": FromData(lambda: layers.Dense(6), 6),
    "EinsumDense": FromData(lambda: layers.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="de"), 4, 5),
    "Embedding": FromData(lambda: layers.Embedding(9, 4), 5, dtype="int32"),
    "Conv1D": FromData(lambda: layers.Conv1D(3, 2), 6, 2),
    "Conv2D": FromData(lambda: layers.Conv2D(3, 2), 5, 5, 2),
    "Conv3D": FromData(lambda: layers.Conv3D(2, 2), 3, 3, 3, 2),
    "Conv1DTranspose": FromData(lambda: layers.Conv1DTranspose(3, 2), 6, 2),
    "Conv2DTranspose": FromData(lambda: layers.Conv2DTranspose(3, 2), 4, 4, 2),
    "Conv3DTranspose": FromData(lambda: layers.Conv3DTranspose(2, 2), 2, 2, 2, 2),
    "SeparableConv1D": FromData(lambda: layers.SeparableConv1D(3, 2), 6, 4),
    "SeparableConv2D": FromData(lambda: layers.SeparableConv2D(3, 2), 4, 4, 4),
    "DepthwiseConv1D": FromData(lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), 6, 4),
    "DepthwiseConv2D": FromData(lambda: layers.DepthwiseConv2D(2), 4, 4, 4),
    "MultiHeadAttention": FromData(attention(layers.MultiHeadAttention, 2, 3), 4, 5),
    "GroupQueryAttention": FromData(attention(layers.GroupQueryAttention, 3, 4, 2), 4, 5),
    "SimpleRNN": FromData(lambda: layers.SimpleRNN(4), 4, 3),
    "LSTM": FromData(lambda: layers.LSTM(4), 4, 3),
    "GRU": FromData(lambda: layers.GRU(4), 4, 3),
    "ConvLSTM1D": FromData(lambda: layers.ConvLSTM1D(2, 2), 3, 4, 2),
    "ConvLSTM2D": FromData(lambda: layers.ConvLSTM2D(2, 2), 2, 3, 3, 2),
    "ConvLSTM3D": FromData(lambda: layers.ConvLSTM3D(1, 2), 2, 2, 2, 2, 2),
    "RNN": FromData(stacked_cells, 4, 3),
    "Bidirectional": FromData(lambda: layers.Bidirectional(layers.LSTM(3)), 4, 3),
    "TimeDistributed": FromData(lambda: layers.TimeDistributed(layers.Dense(4)), 4, 3),
    "SpectralNormalization": FromData(lambda: layers.SpectralNormalization(layers.Dense(4)), 6),
    "normalization": FromData(normalized, 5, 5, 2),
    "nested models": FromData(nested, 6),
    "a shared layer": FromData(shared, 6),
    "a user's own layer": FromData(TwoKernels, 6),
    "a user's own layer of layers": FromData(Block, 6),
}


class Probe(keras.callbacks.Callback):
    """At every batch end: what is pruned is zero, and nothing but kernels has a mask."""

    def __init__(self):
        super().__init__()
        self.sparsities = []

    def on_train_batch_end(self, batch, logs=None):
        zeros = size = 0
        for variable in self.model.trainable_variables:
            constraint = mask_constraint(variable)
            if constraint is not None:
                mask, weights = constraint.mask.numpy(), variable.numpy()
                assert not weights[mask == 0].any(), variable.path
                zeros, size = zeros + (mask == 0).sum(), size + mask.size
            else:
                assert variable.name in ("bias", "gamma", "beta"), variable.path
        self.sparsities.append(zeros / size)


def fit(model, x, *callbacks, epochs=1, **options):
    y = np.ones((len(x), *model.output_shape[1:]), "float32")
    model.compile("adam", "mse", jit_compile=False, **options)
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


def assert_target(model, sparsity):
    for path, variable in prunable(model).items():
        weights = variable.numpy()
        assert np.count_nonzero(weights) == kept_count(weights.size, sparsity), path


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_at_every_batch_end_and_the_target_at_the_end(kind):
    model, x = KINDS[kind].model(), KINDS[kind].data()
    before, after = Probe(), Probe()
    schedule = PolynomialDecay(0.25, 0.75, begin_step=1, end_step=BATCHES + 1, frequency=1)
    fit(model, x, before, PruneCallback(schedule), after, epochs=2)
    assert after.sparsities == sorted(after.sparsities)
    assert after.sparsities[0] == pytest.approx(0.25, abs=0.08)
    assert len(after.sparsities) == 2 * BATCHES
    assert_target(model, 0.75)


@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_saved_loaded_and_trained_on(kind, tmp_path):
    model, x = KINDS[kind].model(), KINDS[kind].data()
    wrapped = wrap(model)
    np.testing.assert_allclose(wrapped(x), model(x), rtol=1e-5, atol=1e-6)
    probe = Probe()
    fit(wrapped, x, PruneCallback(ConstantSparsity(0.5)), probe, run_eagerly=True)  # nothing is traced: quick
    assert probe.sparsities == pytest.approx([probe.sparsities[0]] * BATCHES)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(wrapped.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    fit(loaded, x, Probe(), run_eagerly=True)  # no callback prunes: the masks that were saved hold
    assert_target(loaded, 0.5)
    plain = strip(loaded)
    assert [tuple(v.shape) for v in plain.weights] == [tuple(v.shape) for v in model.weights]
    assert all(v.constraint is None for v in plain.trainable_variables)
    np.testing.assert_array_equal(plain(x), loaded(x))


def test_normalization_and_biases_are_left_alone():
    model = KINDS["normalization"].model()
    names = {variable.name for variable in prunable(model).values()}
    assert names == {"kernel"}
    prune(model, 0.75)
    for variable in model.trainable_variables:
        if variable.name in ("gamma", "beta", "bias"):
            assert mask_constraint(variable) is None
    model = KINDS["GRU"].model()
    assert {variable.name for variable in prunable(model).values()} == {"kernel", "recurrent_kernel"}


def test_a_layer_inside_of_another_wrapper():
    stack = [layers.TimeDistributed(Prune(layers.Dense(4), name="inner")), layers.Flatten()]
    model = keras.Sequential([keras.Input((3, 6)), *stack])
    x = RNG.normal(size=(16, 3, 6)).astype("float32")
    fit(model, x, PruneCallback(ConstantSparsity(0.5)), Probe())
    assert_target(model, 0.5)
    plain = strip(model)
    assert type(plain.layers[0].layer) is layers.Dense
    np.testing.assert_array_equal(plain(x), model(x))


def test_every_layer_of_keras_with_weights_is_here():
    """A new kind of layer in Keras fails here, so that it gets its row."""
    within_others = {"LSTMCell", "GRUCell", "SimpleRNNCell", "Wrapper", "Layer", "StackedRNNCells"}
    not_for_training = {"TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
    fixed_or_scalar = {"Normalization", "STFTSpectrogram", "Attention", "AdditiveAttention"}
    one_dimension = {"PReLU", "BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"}
    rare = {"ReversibleEmbedding"}  # an Embedding
    found = set()
    for cls in map(vars(layers).get, dir(layers)):
        if isinstance(cls, type) and any(
            f"{word}(" in inspect.getsource(cls) for word in ("add_weight", "EinsumDense")
        ):
            found.add(cls.__name__.replace("GroupedQuery", "GroupQuery"))
    assert found - set(KINDS) - within_others - not_for_training - fixed_or_scalar - one_dimension - rare == set()
