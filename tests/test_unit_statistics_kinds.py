"""What is gathered of units in mixed precision, shared layers, time and maps, and custom steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from unit_fits import MODES, at_sites, fit, gathered  # type: ignore[import-not-found]
from unit_models import (  # type: ignore[import-not-found]
    RNG,
    SEQUENCES,
    Y,
    batches,
    cnn,
    compiled,
    dense,
    expected,
    group,
    groups_of_cnn,
    part,
    site,
    taylor_of_example,
)

from keras_prune.criteria import (
    Taylor,
    TaylorFO,
)
from keras_prune.unit_statistics import UnitStatistics

pytestmark = pytest.mark.usefixtures("seeded")
NAMES = ["first_out", "second"]
SLOW = pytest.mark.slow


def mixed(policy, make, **options):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make(**options)
    finally:
        keras.config.set_dtype_policy(before)


def scaled(initial_scale):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=initial_scale)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    model, groups = mixed(policy, cnn, optimizer=scaled(2.0**12) if policy == "mixed_float16" else None)
    exact, _ = cnn()
    exact.set_weights(model.get_weights())
    want = expected(exact, NAMES, taylor_of_example)
    stats = gathered(model, groups, Taylor())
    tolerance = 0.01 if policy == "mixed_float16" else 0.05  # numbers of 11 bits, or 8: products err by 1e-3 or 1e-2
    for found, wanted in zip(at_sites(stats, groups), want, strict=True):
        assert found == pytest.approx(wanted, abs=tolerance * float(wanted.max()))


@pytest.mark.parametrize("criterion", [Taylor(), TaylorFO()])
@pytest.mark.parametrize("way", ["float16", "float32"])
def test_steps_that_overflow_are_left_out(criterion, way):
    """The scale is halved until nothing overflows."""
    if way == "float16":
        model, groups = mixed("mixed_float16", dense, optimizer=scaled(2.0**24))
    else:  # in a graph TensorFlow changes the order of products, so that they may not overflow at all
        model, groups = dense(optimizer=scaled(3e38), run_eagerly=True)
        hidden = model.get_layer("hidden")
        hidden.kernel.assign(100 * hidden.kernel.numpy())
    stats = UnitStatistics(criterion, groups)
    stats.connect(model)
    fit(model, epochs=8)
    observer = next(iter(stats._observers.values()))
    assert 24 < observer.memory.count < 8 * 24
    assert np.isfinite(at_sites(stats, groups)[0]).all()


def shared_model():
    """A layer that is called twice, and a nested model with another."""
    inner_in = keras.Input((6, 6, 5))
    inner = keras.Model(inner_in, layers.Conv2D(4, 3, activation="relu", name="nested")(inner_in), name="inner")
    image = keras.Input((6, 6, 3))
    start = layers.Conv2D(5, 3, padding="same", name="start")(image)
    shared = layers.Conv2D(5, 3, padding="same", activation="tanh", name="shared")
    once = shared(start)
    twice = shared(layers.ReLU(name="between")(once))
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(inner(twice))))
    nested = inner.get_layer("nested")
    groups = [
        group([part(shared.kernel)], [site(shared, 5)], name="shared"),
        group([part(nested.kernel)], [site(nested, 4)], name="nested"),
    ]
    return model, groups


def shared_pass(model, x, y):
    """Activations and their gradients at both calls of the shared layer, and in the nested model, by hand."""
    start, shared, between = (model.get_layer(name) for name in ("start", "shared", "between"))
    inner = model.get_layer("inner")
    with tf.GradientTape() as tape:
        once = shared(start(x))
        twice = shared(between(once))
        nested = inner.get_layer("nested")(twice)
        outputs = model.layers[-1](model.layers[-2](nested))
        loss = ops.sum(keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True))
    watched = [once, twice, nested]
    return [
        (a.numpy() * g.numpy()).mean(axis=(1, 2)) for a, g in zip(watched, tape.gradient(loss, watched), strict=True)
    ]


@pytest.mark.parametrize("mode", ["plain", "eager", pytest.param("jit", marks=SLOW)])
def test_shared_layers_and_nested_models(mode):
    """The change of the loss on removal is that of both calls together: they are added before the absolute value."""
    model, groups = shared_model()
    compiled(model, **MODES[mode])
    once, twice, nested = (
        np.concatenate(c) for c in zip(*(shared_pass(model, x, y) for x, y in batches()), strict=True)
    )
    stats = gathered(model, groups, Taylor(), epochs=2)
    found = at_sites(stats, groups)
    assert found[0] == pytest.approx(np.abs(once + twice).mean(axis=0), rel=1e-4)
    assert found[1] == pytest.approx(np.abs(nested).mean(axis=0), rel=1e-4)
    assert next(iter(stats._observers.values())).memory.count == 48  # examples, not calls


def sequence_model(kind):
    """Models with a time axis: layers in TimeDistributed, recurrent layers with and without their states."""
    data = keras.Input((5, 3))
    layer = {
        "gru": lambda: layers.GRU(4, name="layer"),
        "gru sequences": lambda: layers.GRU(4, return_sequences=True, name="layer"),
        "gru states": lambda: layers.GRU(4, return_sequences=True, return_state=True, name="layer"),
        "time distributed": lambda: layers.TimeDistributed(layers.Dense(4, "relu"), name="layer"),
        "inside time distributed": lambda: layers.TimeDistributed(layers.Dense(4, "relu"), name="layer"),
        "convolution": lambda: layers.Conv1D(4, 2, name="layer"),
    }[kind]()
    outputs = layer(data)
    head = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    flat = layers.Flatten(name="flat")(head) if len(head.shape) == 3 else head
    model = compiled(keras.Model(data, layers.Dense(4, name="out")(flat)))
    watched = layer.layer if kind == "inside time distributed" else layer
    return model, [group([part(model.get_layer("out").kernel)], [site(watched, 4)])]


@pytest.mark.parametrize(
    "kind", ["gru", "gru sequences", "gru states", "time distributed", "inside time distributed", "convolution"]
)
def test_time_axes(kind):
    model, groups = sequence_model(kind)
    layer = model.get_layer("layer")
    values = []
    for i in (0, 8, 16):
        with tf.GradientTape() as tape:
            outputs = layer(SEQUENCES[i : i + 8])
            outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
            logits = model.get_layer("out")(ops.reshape(outputs, (8, -1)))
            loss = ops.sum(keras.losses.sparse_categorical_crossentropy(Y[i : i + 8], logits, from_logits=True))
        product = outputs.numpy() * tape.gradient(loss, outputs).numpy()
        values.append(product if product.ndim == 2 else product.mean(axis=1))
    stats = gathered(model, groups, Taylor(), x=SEQUENCES)
    calls = 5 if kind == "inside time distributed" else 1  # a call for each point in time, of a map of one value
    wanted = np.abs(np.concatenate(values)).mean(axis=0)
    assert at_sites(stats, groups)[0] == pytest.approx(calls * wanted, rel=1e-4)


def test_maps_of_three_dimensions_and_channels_first():
    clips = RNG.normal(size=(24, 3, 4, 4, 2)).astype("float32")
    data = keras.Input((3, 4, 4, 2))
    layer = layers.Conv3D(4, 2, activation="relu", name="layer")
    moved = layers.Permute((4, 1, 2, 3), name="moved")
    model = compiled(keras.Model(data, layers.Dense(4, name="out")(layers.Flatten()(moved(layer(data))))))
    groups = [group([part(layer.kernel)], [site(layer, 4), site(moved, 4, axis=-4)])]
    stats = gathered(model, groups, Taylor(), x=clips)
    last, first = at_sites(stats, groups)
    front = keras.Model(data, [layer.output, model.output])
    values = []
    for i in (0, 8, 16):
        with tf.GradientTape() as tape:
            activation, outputs = front(clips[i : i + 8])
            loss = ops.sum(keras.losses.sparse_categorical_crossentropy(Y[i : i + 8], outputs, from_logits=True))
        values.append((activation.numpy() * tape.gradient(loss, activation).numpy()).mean(axis=(1, 2, 3)))
    wanted = np.abs(np.concatenate(values)).mean(axis=0)
    assert last == pytest.approx(wanted, rel=1e-4)
    assert first == pytest.approx(wanted, rel=1e-4)


def test_a_custom_train_step():
    class Custom(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    plain, _ = cnn()
    model = compiled(Custom(plain.inputs, plain.outputs))
    groups = groups_of_cnn(model)
    want = expected(plain, NAMES, taylor_of_example)
    stats = gathered(model, groups, Taylor())
    for found, wanted in zip(at_sites(stats, groups), want, strict=True):
        assert found == pytest.approx(wanted, rel=2e-4, abs=1e-8)
