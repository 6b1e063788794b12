"""What users of TFMOT complain of: each test has the number of its issue in tensorflow/model-optimization."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_prune
from keras_prune.masks import mask_constraint, prunable
from keras_prune.selection import kept_count

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_issue_1182_n_by_m_prunes_the_first_convolution(channels):
    """TFMOT pads the channels of an image to four and finds 2 of 4 pruned already; others are pruned to 2:4."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            layers.Conv2D(4, (4, 4), name="first"),
            layers.Conv2D(4, (4, 4), name="second"),
        ]
    )
    keras_prune.prune(model, 0.5, pattern=keras_prune.NByM(2, 4))
    for name in ("first", "second"):
        kernel = model.get_layer(name).kernel.numpy()
        groups = np.moveaxis(kernel, -1, 0).reshape(-1, 4)  # the inputs of each output, in packed order
        assert (np.count_nonzero(groups, axis=1) == 2).all(), name


X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(48, 3)).astype("float32")


def assert_target(model, sparsity=0.8):
    for path, variable in prunable(model).items():
        size = int(np.prod(variable.shape))
        assert np.count_nonzero(variable.numpy()) == kept_count(size, sparsity), path


class EveryBatch(keras.callbacks.Callback):
    """Checks exact zeros at every batch end."""

    def on_train_batch_end(self, batch, logs=None):
        for path, variable in prunable(self.model).items():
            assert (variable.numpy()[mask_constraint(variable).mask.numpy() == 0] == 0).all(), path


def fit(model, x, *callbacks, **options):
    callbacks = [keras_prune.PruneCallback(), EveryBatch(), *callbacks]
    return model.fit(x, Y, batch_size=8, epochs=4, verbose=0, callbacks=callbacks, **options)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, activation="relu")
        self.out = layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def test_issue_155_subclassed_models():
    """TFMOT prunes Sequential and functional models only."""
    model = Subclassed()
    model.compile("adam", "mse")
    fit(model, X)
    assert_target(model)


def test_issue_271_custom_training_loop():
    """TFMOT needs private calls of its callback and wrapper in a loop by hand."""
    model, optimizer = Subclassed(), keras.optimizers.Adam()
    model(X[:1])
    pruner = keras_prune.Pruner(model, num_steps=24, optimizer=optimizer)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((y - model(x)) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for i in range(24):
        first = i % 6 * 8
        step(X[first : first + 8], Y[first : first + 8])
        pruner.step()
        for variable in prunable(model).values():
            assert (variable.numpy()[mask_constraint(variable).mask.numpy() == 0] == 0).all()
    pruner.finish()
    assert_target(model)


@pytest.mark.parametrize("cell", [layers.LSTM, layers.GRU])
def test_issue_374_bidirectional(cell):
    """TFMOT refuses Bidirectional layers."""
    stack = [layers.Bidirectional(cell(4)), layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 1)), *stack])
    model.compile("adam", "mse")
    fit(model, X[..., None])
    assert len(prunable(model)) == 5  # kernel and recurrent kernel in both directions, and the head
    assert_target(model)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own saving on NumPy 2
def test_issue_206_checkpoints_are_sparse(tmp_path):
    """TFMOT's checkpoints hold weights whose masks have not been applied."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)])
    model.compile("adam", "mse")
    fit(model, X, keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"))
    sparsities = []
    for epoch in range(1, 5):
        loaded = keras.models.load_model(tmp_path / f"{epoch}.keras")
        assert [type(layer).__name__ for layer in loaded.layers] == ["Dense", "Dense"]
        kernels = [variable.numpy().reshape(-1) for variable in prunable(loaded).values()]
        sparsities.append(float((np.concatenate(kernels) == 0).mean()))
    assert sparsities == [pytest.approx(0.7, abs=0.02)] + [pytest.approx(0.8, abs=0.01)] * 3
    assert_target(loaded)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_issue_409_mixed_precision(policy):
    """TFMOT's masks have another dtype than the weights of a mixed policy."""
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3, dtype="float32")])
        model.compile("adam", "mse")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert (type(model.optimizer).__name__ == "LossScaleOptimizer") == (policy == "mixed_float16")
    fit(model, X)
    assert model.layers[0].kernel.dtype == "float32"
    assert_target(model)
