"""The ways to train, for tests/test_ways_to_train.py: each a function of a watching callback and a folder."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from watched_training import (  # type: ignore[import-not-found]
    BATCHES,
    TARGET,
    Subclassed,
    X,
    Y,
    fit,
    fitted,
    pruning,
    schedule,
    sequential,
    stack,
)

import keras_prune
from keras_prune.masks import prunable

WAYS: dict = {}


def way(name):
    def add(function):
        WAYS[name] = function
        return function

    return add


way("Sequential")(lambda watch, _: fitted(watch, sequential()))
way("jit_compile")(lambda watch, _: fitted(watch, sequential(jit_compile=True)))
way("steps_per_execution")(lambda watch, _: fitted(watch, sequential(steps_per_execution=4), batch_size=6))
way("run_eagerly")(lambda watch, _: fitted(watch, sequential(run_eagerly=True)))
way("validation data")(lambda watch, _: fitted(watch, sequential(), validation_data=(X, Y)))
way("sample weights")(lambda watch, _: fitted(watch, sequential(), sample_weight=np.arange(48.0)))


@way("functional")
def _(watch, _):
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared, out = stack()
    both = layers.Concatenate()([shared(a), shared(b)])
    model = keras.Model({"a": a, "b": b}, {"out": out(both), "mean": layers.Dense(1, name="mean")(both)})
    model.compile("adam", {"out": "mse", "mean": "mae"})
    return fitted(watch, model, x={"a": X, "b": X}, y={"out": Y, "mean": Y[:, :1]})


@way("subclassed, built")
def _(watch, _):
    model = Subclassed()
    model(X[:1])
    model.compile("adam", "mse")
    return fitted(watch, model)


@way("subclassed, unbuilt")
def _(watch, _):
    model = Subclassed()
    model.compile("adam", "mse")
    return fitted(watch, model)


@way("Sequential, unbuilt")
def _(watch, _):
    model = keras.Sequential(stack())
    model.compile("adam", "mse")
    return fitted(watch, model)


@way("a dataset of unknown length")
def _(watch, _):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).filter(lambda x, y: tf.constant(value=True))
    assert data.cardinality() == tf.data.UNKNOWN_CARDINALITY
    return fitted(watch, sequential(), x=data, y=None, batch_size=None, shuffle=False)


@way("train_on_batch")
def _(watch, _):
    model = sequential()
    pruner = keras_prune.Pruner(model, schedule())
    for x, y in BATCHES * 2:
        model.train_on_batch(x, y)
        watch.look(model)
        pruner.step()
        watch.look(model)
    pruner.finish()
    return model


def tape_loop(watch, wrap):
    model, optimizer = Subclassed(), keras.optimizers.Adam()
    model(X[:1])
    pruner = keras_prune.Pruner(model, schedule(), optimizer=optimizer)

    @wrap
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = ops.mean((y - model(x, training=True)) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for x, y in BATCHES * 2:
        step(x, y)
        watch.look(model)
        pruner.step()
        watch.look(model)
    pruner.finish()
    return model


way("GradientTape, eager")(lambda watch, _: tape_loop(watch, lambda step: step))
way("GradientTape, tf.function")(lambda watch, _: tape_loop(watch, tf.function))
way("GradientTape, XLA")(lambda watch, _: tape_loop(watch, tf.function(jit_compile=True)))


@way("no Keras optimizer")
def _(watch, _):
    model = sequential()
    pruner = keras_prune.Pruner(model, schedule())
    for x, y in BATCHES * 2:
        with tf.GradientTape() as tape:
            loss = ops.mean((y - model(x)) ** 2)
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.1 * gradient)
        pruner.step()
        watch.look(model)
    pruner.finish()
    return model


class TwoOptimizers(Subclassed):
    """A train_step of its own, and an optimizer for each layer."""

    def compile(self, first, second):
        super().compile()
        self.first, self.second = first, second

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = ops.mean((y - self(x)) ** 2)
        for optimizer, layer in ((self.first, self.hidden), (self.second, self.out)):
            optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
        return {"loss": loss}


@way("a train_step of your own, two optimizers")
def _(watch, _):
    model = TwoOptimizers()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.1))
    return fitted(watch, model)


@contextlib.contextmanager
def policy(name):
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def mixed(watch, name):
    with policy(name):
        model = sequential()
    assert model.get_layer("hidden").compute_dtype == name.removeprefix("mixed_")
    # Loss scaling skips steps in which a gradient overflows: the schedule counts them.
    assert (type(model.optimizer).__name__ == "LossScaleOptimizer") == (name == "mixed_float16")
    return fitted(watch, model)


way("mixed_float16")(lambda watch, _: mixed(watch, "mixed_float16"))
way("mixed_bfloat16")(lambda watch, _: mixed(watch, "mixed_bfloat16"))

OPTIMIZERS = {
    "gradient accumulation": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "use_ema": lambda: keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5),
    "use_ema, overwriting": lambda: keras.optimizers.Adam(0.1, use_ema=True, ema_overwrite_frequency=2),
}
for _name, _make in OPTIMIZERS.items():
    way(_name)(lambda watch, _, make=_make: fitted(watch, sequential(make())))


@way("SwapEMAWeights")
def _(watch, _):
    model = sequential(keras.optimizers.Adam(0.1, use_ema=True))
    return fit(model, keras.callbacks.SwapEMAWeights(swap_on_epoch=True), pruning(), watch)


@way("use_ema, later without a callback")
def _(watch, _):
    optimizer = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    model = fitted(watch, sequential(optimizer))
    for _ in range(2):
        fit(model, watch)
        zeros = [np.count_nonzero(variable.numpy() == 0) for variable in prunable(model).values()]
        assert zeros == [36, 18]
    return model


@way("use_ema, pruned at once or wrapped")
def _(watch, _):
    model = keras_prune.prune(sequential(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)), TARGET)
    return fit(keras_prune.wrap(fit(model, watch)), watch)


def early_stopping(watch, order):
    """The monitored value only worsens: the best weights are those of the first epoch, before the target."""
    worse = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(worse=epoch))
    stopping = keras.callbacks.EarlyStopping("worse", mode="min", restore_best_weights=True, patience=2)
    model = fit(sequential(), worse, *order([pruning(), stopping]), watch, epochs=9)
    assert (stopping.best_epoch, stopping.stopped_epoch) == (0, 2)
    return model


way("EarlyStopping after PruneCallback")(lambda watch, _: early_stopping(watch, list))
way("EarlyStopping before PruneCallback")(lambda watch, _: early_stopping(watch, reversed))


def checkpoint(watch, file, order):
    """The file of each epoch is as sparse as the model was, and plain."""
    saving = keras.callbacks.ModelCheckpoint(file)
    prune, sparsities = pruning(), []

    def look(epoch, logs):
        loaded = keras.models.load_model(file)
        kernels = [variable.numpy().reshape(-1) for variable in prunable(loaded).values()]
        sparsities.append(float((np.concatenate(kernels) == 0).mean()))
        assert abs(sparsities[-1] - prune.sparsity) < 1e-9  # rounded in another order
        assert [type(layer).__name__ for layer in loaded.layers] == ["Dense", "Dense"]

    looking = keras.callbacks.LambdaCallback(on_epoch_end=look)
    fit(sequential(), *order([prune, saving]), watch, looking)
    assert sparsities[0] > 0.5
    return keras.models.load_model(file)


way("ModelCheckpoint after PruneCallback")(lambda watch, folder: checkpoint(watch, folder / "model.keras", list))
way("ModelCheckpoint before PruneCallback")(lambda watch, folder: checkpoint(watch, folder / "model.keras", reversed))


@way("a second and third fit, the same callback")
def _(watch, _):
    model, callback = sequential(), keras_prune.PruneCallback(schedule(end_step=15))
    for _ in range(3):
        fit(model, callback, watch, epochs=1)
    assert callback.step == 18
    return model


@way("a second and third fit, new callbacks")
def _(watch, _):
    model = fit(sequential(), keras_prune.PruneCallback(keras_prune.ConstantSparsity(0.25)), watch)
    fit(model, keras_prune.PruneCallback(keras_prune.PolynomialDecay(0.25, 0.5)), watch)
    return fit(model, keras_prune.PruneCallback(keras_prune.PolynomialDecay(0.5, TARGET)), watch)


@way("later without a callback")
def _(watch, _):
    model = fit(fitted(watch, sequential()), watch)
    model.compile("sgd", "mse")  # another optimizer
    return fit(model, watch)


@way("a model already fitted")
def _(watch, _):
    return fitted(watch, fit(sequential()))


@way("compiled again, layers frozen in between")
def _(watch, _):
    model, callback = sequential(), keras_prune.PruneCallback(schedule(end_step=15))
    fit(model, callback, watch, epochs=1)
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "mse")
    fit(model, callback, watch, epochs=1)
    model.get_layer("hidden").trainable = True
    model.compile("adam", "mse")
    return fit(model, callback, watch, epochs=2)


@way("initial_epoch in a new process")
def _(watch, folder):
    fit(sequential(), pruning(), watch, epochs=1).save(folder / "model.keras")
    callback = pruning()
    model = fit(keras.models.load_model(folder / "model.keras"), callback, watch, initial_epoch=1, epochs=2)
    assert callback.step == 12
    return model


@way("prune at once, then fit")
def _(watch, _):
    return fit(keras_prune.prune(sequential(), TARGET), watch)


@way("a wrapped model, saved and loaded")
def _(watch, folder):
    model = keras_prune.wrap(sequential())
    fitted(watch, model).save(folder / "model.keras")
    return fit(keras.models.load_model(folder / "model.keras"), watch)
