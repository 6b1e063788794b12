"""CodebookCallback: shared values are trained, by the sum of their weights' gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.codebook_training import CodebookCallback
from keras_prune.masks import prunable
from keras_prune.quantization import Codebook
from keras_prune.schedules import ConstantSparsity
from keras_prune.surgery import prune, strip
from keras_prune.wrappers import wrap

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")


def dense(optimizer="adam", sparsity=0.5):
    stack = [layers.Dense(16, "relu", name="hidden"), layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((6,)), *stack])
    model.compile(optimizer, "mse")
    return prune(model, sparsity) if sparsity else model


def fit(model, *callbacks, x=X, **options):
    return model.fit(x, Y, callbacks=list(callbacks), **{"batch_size": 12, "epochs": 2, "verbose": 0, **options})


def kernels(model):
    return [variable.numpy() for variable in prunable(model).values()]


class Probe(keras.callbacks.Callback):
    """At every batch end: zeros stay, weights of a code are equal to the bit."""

    def __init__(self, codes):
        super().__init__()
        self.codes, self.values = codes, []

    def on_train_batch_end(self, batch, logs=None):
        values = []
        for weights, codes in zip(kernels(self.model), self.codes, strict=True):
            assert (weights[codes == 0] == 0).all()
            for code in range(1, codes.max() + 1):
                assert len(np.unique(weights[codes == code])) == 1
                values.append(weights[codes == code][0])
        self.values.append(values)


def gradients(model):
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.losses.mean_squared_error(Y, model(X)))
    variables = list(prunable(model).values())
    return [g.numpy() for g in tape.gradient(loss, variables)]


def test_sgd_moves_centroids_by_the_sum_of_the_members_gradients():
    model = dense(keras.optimizers.SGD(0.01))
    fits = [Codebook(3).fit(weights) for weights in kernels(model)]
    for variable, (codes, codebook) in zip(prunable(model).values(), fits, strict=True):
        variable.assign(codebook[codes])
    grads = gradients(model)
    fit(model, CodebookCallback(Codebook(3)), epochs=1, batch_size=48)
    for weights, gradient, (codes, codebook) in zip(kernels(model), grads, fits, strict=True):
        for code in range(1, len(codebook)):
            expected = codebook[code] - np.float32(0.01) * gradient[codes == code].sum()
            np.testing.assert_allclose(weights[codes == code], expected, rtol=2e-6, atol=1e-7)
        assert (weights[codes == 0] == 0).all()


def test_the_gradient_is_that_of_the_loss_in_the_codebook():
    model = dense(keras.optimizers.SGD(1.0))
    first = next(iter(prunable(model).values()))
    codes, codebook = Codebook(2).fit(first.numpy())
    x, y = tf.constant(X), tf.constant(Y)
    hidden, out = model.layers
    with tf.GradientTape() as tape:
        values = tf.Variable(codebook)
        kernel = tf.gather(values, codes.astype("int32"))
        loss = keras.ops.mean(keras.losses.mean_squared_error(y, out(hidden.activation(x @ kernel + hidden.bias))))
    analytic = tape.gradient(loss, values)
    analytic = (
        tf.math.unsorted_segment_sum(analytic.values, analytic.indices, len(codebook)).numpy()
        if isinstance(analytic, tf.IndexedSlices)
        else analytic.numpy()
    )
    fit(model, CodebookCallback(Codebook(2), layers="hidden"), epochs=1, batch_size=48)
    for code in range(1, len(codebook)):
        moved = first.numpy()[codes == code][0] - codebook[code]
        assert moved == pytest.approx(-analytic[code], rel=1e-4, abs=1e-6)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.001, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "clipping": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_few_values_at_every_batch_end_with_every_optimizer(name):
    model = dense(OPTIMIZERS[name]())
    fit(model)  # slots that differ within a code
    codes = [Codebook(3).fit(weights)[0] for weights in kernels(model)]
    probe = Probe(codes)
    callback = CodebookCallback(Codebook(3))
    fit(model, callback, probe)
    assert len({tuple(values) for values in probe.values}) >= len(probe.values) // 2
    for weights, code, values in zip(kernels(model), codes, callback.codebooks.values(), strict=True):
        np.testing.assert_array_equal(np.unique(weights), values)
        assert len(values) <= 8
        np.testing.assert_array_equal(weights == 0, code == 0)


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 4}, {"run_eagerly": True}])
def test_modes_of_the_training_step(options):
    model = dense()
    model.compile("adam", "mse", **options)
    fit(model, CodebookCallback(Codebook(2)))
    assert [len(np.unique(weights)) for weights in kernels(model)] == [4, 4]


def test_mixed_precision_with_loss_scaling():
    model = dense(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)))
    fits = [Codebook(3).fit(weights) for weights in kernels(model)]
    for variable, (codes, codebook) in zip(prunable(model).values(), fits, strict=True):
        variable.assign(codebook[codes])
    grads = gradients(model)
    fit(model, CodebookCallback(Codebook(3)), epochs=1, batch_size=48)
    codes, codebook = fits[0]
    weights = kernels(model)[0]
    expected = codebook[1] - np.float32(0.01) * grads[0][codes == 1].sum()
    np.testing.assert_allclose(weights[codes == 1], expected, rtol=1e-4)


@pytest.mark.parametrize("make", [wrap, lambda model: model])
def test_the_model_is_left_as_it_was(make):
    model = make(dense())
    apply = model.optimizer.apply
    before = [v.constraint.inner for v in prunable(model).values()]
    fit(model, CodebookCallback(Codebook(2)))
    assert [v.constraint.inner for v in prunable(model).values()] == before == [None, None]
    assert model.optimizer.apply == apply
    fit(model)  # weights of a code part again, zeros stay
    assert len(np.unique(kernels(model)[0])) > 20
    assert (kernels(model)[0] == 0).mean() == 0.5


def test_two_codebooks_in_one_fit():
    model = dense()
    fit(model, CodebookCallback(Codebook(2), layers="hidden"), CodebookCallback(Codebook(3), layers="out"))
    assert [len(np.unique(weights)) for weights in kernels(model)] == [4, 8]
    assert [v.constraint.inner for v in prunable(model).values()] == [None, None]
    assert "apply" not in vars(model.optimizer)


def test_a_fit_that_was_broken_off_leaves_nothing_to_a_new_callback():
    model = dense()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, CodebookCallback(Codebook(2)), Stop())
    fit(model, CodebookCallback(Codebook(2), layers="out"))
    assert [v.constraint.inner for v in prunable(model).values()] == [None, None]
    assert "apply" not in vars(model.optimizer)
    fit(model)
    assert [len(np.unique(weights)) > 8 for weights in kernels(model)] == [True, True]


def test_slots_of_other_layers_are_left_alone():
    """The slots of ``my_dense`` have the name of ``dense`` in theirs."""
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="my_dense")(layers.Dense(6, name="dense")(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    fit(model)

    def momentum():
        return next(v.numpy() for v in model.optimizer.variables if v.name == "my_dense_kernel_momentum")

    seen, before = [], momentum()
    look = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(momentum()))
    fit(model, CodebookCallback(Codebook(2), layers="dense"), look, epochs=1)
    np.testing.assert_array_equal(seen[0], before)


def test_training_lowers_the_loss_of_the_quantized_model():
    model = dense(keras.optimizers.Adam(0.01))
    target = (X[:, :3] - X[:, 3:]).astype("float32")
    model.fit(X, target, epochs=60, verbose=0)
    losses = model.fit(X, target, epochs=40, verbose=0, callbacks=[CodebookCallback(Codebook(2))]).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_embeddings_convolutions_and_a_dense_model():
    tokens = RNG.integers(0, 9, size=(48, 5))
    stack = [layers.Embedding(9, 4), layers.Conv1D(4, 3), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((5,), dtype="int32"), *stack])
    model.compile("adam", "mse")
    fit(model, CodebookCallback(Codebook(2)), x=tokens)
    assert [len(np.unique(weights)) for weights in kernels(model)] == [3, 3, 3]


def test_the_export_stores_the_kernels_exactly():
    model = dense()
    fit(model, CodebookCallback(Codebook(3)))
    for weights in kernels(strip(model)):
        codes, codebook = Codebook(3).fit(weights)
        np.testing.assert_array_equal(codebook[codes], weights)


@pytest.mark.parametrize("pruning_first", [False, True])
def test_pruning_in_the_same_fit_is_refused(pruning_first):
    callbacks = [PruneCallback(ConstantSparsity(0.5)), CodebookCallback()]
    with pytest.raises(ValueError, match=r"expected codes that stay|expected one .* for each weight, got two"):
        fit(dense(), *(callbacks if pruning_first else callbacks[::-1]))


def test_arguments():
    with pytest.raises(TypeError, match=r"expected keras_prune\.Codebook\(bits=\.\.\.\), got 4"):
        CodebookCallback(4)
