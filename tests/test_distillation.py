"""A student that learns from its teacher."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.distillation import Distiller
from keras_prune.masks import prunable
from keras_prune.regularizers import set_regularizer
from keras_prune.schedules import ConstantSparsity

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:__array__ implementation")]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
IMAGES = RNG.normal(size=(32, 6, 6, 1)).astype("float32")
LABELS = RNG.integers(0, 3, size=32)


def dense():
    stack = [
        layers.Dense(8, "relu", name="hidden"),
        layers.BatchNormalization(),
        layers.Dense(3, "softmax", name="out"),
    ]
    model = keras.Sequential([keras.Input((6,)), *stack])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def fit(model, x=X, **options):
    return model.fit(x, LABELS, **{"batch_size": 8, "epochs": 1, "verbose": 0, **options})


def kernels(model):
    return [variable.numpy() for variable in prunable(model).values()]


@pytest.mark.parametrize("from_logits", [False, True])
def test_distillation_loss(from_logits):
    def make():
        return keras.Sequential([keras.Input((6,)), layers.Dense(3, None if from_logits else "softmax")])

    student, teacher = make(), make()
    distiller = Distiller(student, teacher, temperature=3.0, alpha=0.25, from_logits=from_logits)
    distiller.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))
    logits = [X @ m.get_weights()[0] for m in (student, teacher)]
    soft = [np.exp(z / 3) / np.exp(z / 3).sum(axis=1, keepdims=True) for z in logits]
    divergence = (soft[1] * np.log(soft[1] / soft[0])).sum(axis=1).mean()
    hard = -np.log((np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True))[np.arange(32), LABELS]).mean()
    found = fit(distiller, batch_size=32).history["loss"][0]
    assert found == pytest.approx(0.25 * hard + 0.75 * 9 * divergence, rel=1e-4)
    np.testing.assert_array_equal(distiller.predict(X, verbose=0), student.predict(X, verbose=0))


def test_distillation_prunes_the_student_only(tmp_path):
    student, teacher = dense(), dense()
    before = teacher.get_weights()
    distiller = Distiller(student, teacher)
    distiller.compile("adam", "sparse_categorical_crossentropy")
    fit(distiller, epochs=4, callbacks=[PruneCallback(ConstantSparsity(0.75))])
    assert [(w == 0).mean() for w in kernels(student)] == [0.75, 0.75]
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert (loaded.temperature, loaded.alpha, loaded.from_logits) == (4.0, 0.1, False)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), student.predict(X, verbose=0))
    assert not loaded.teacher.trainable


def test_distillation_copies_a_teacher():
    student, teacher = dense(), dense()
    fit(teacher, epochs=20)
    # Older Keras logs the loss of a compiled model inside of another in the place of the outer one.
    student, teacher = keras.Sequential(student.layers), keras.Sequential(teacher.layers)
    distiller = Distiller(student, teacher, alpha=0.0, temperature=1.0)
    distiller.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    losses = fit(distiller, epochs=30).history["loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_distiller_arguments():
    with pytest.raises(TypeError, match=r"Distiller\.teacher: expected a Keras 3 model, got str"):
        Distiller(dense(), "teacher")
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        Distiller(dense(), dense(), temperature=0)
    with pytest.raises(ValueError, match="alpha: expected a number from 0 to 1, got 2"):
        Distiller(dense(), dense(), alpha=2)
    model = dense()
    with pytest.raises(ValueError, match="expected two models, got the same one"):
        Distiller(model, model)


def test_several_outputs_are_refused():
    def make():
        inputs = keras.Input((6,))
        return keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(2)(inputs)])

    distiller = Distiller(make(), make())
    distiller.compile("sgd", ["mse", "mse"], run_eagerly=True)
    with pytest.raises(ValueError, match="Distiller: expected models with one output, got 2"):
        distiller.fit(X, [np.zeros((32, 3)), np.zeros((32, 2))], verbose=0)


def test_regularizers_are_not_weighted():
    """An L2 of the student is what it says, whatever alpha is."""
    student, teacher = dense(), dense()
    set_regularizer(student, keras.regularizers.L2(0.5))
    set_regularizer(teacher, keras.regularizers.L2(7.0))  # frozen: no part of the loss
    teacher.set_weights(student.get_weights())
    penalty = 0.5 * sum(np.square(w).sum() for w in kernels(student))
    # Older Keras logs the loss of a compiled model inside of another in the place of the outer one.
    student, teacher = keras.Sequential(student.layers), keras.Sequential(teacher.layers)
    distiller = Distiller(student, teacher, alpha=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x = np.zeros((32, 6), "float32")  # batch normalization is the same in training and inference
    assert fit(distiller, x, batch_size=32).history["loss"][0] == pytest.approx(penalty, rel=1e-4)


def test_weights_of_samples():
    student, teacher = dense(), dense()
    distiller = Distiller(student, teacher, alpha=0.0)
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    weights = RNG.random(32).astype("float32")

    def loss(**options):
        y_pred = student(X, training=False)
        return float(distiller.compute_loss(X, LABELS, y_pred, **options))

    halves = [loss(sample_weight=w) for w in (weights, 1 - weights)]
    assert sum(halves) == pytest.approx(loss(), rel=1e-5)
    assert loss(sample_weight=weights[:, np.newaxis]) == pytest.approx(halves[0], rel=1e-6)


SCRIPT = """
import keras, numpy as np, tensorflow as tf
from keras_prune import Distiller
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = np.random.default_rng(0).normal(size=(8, 6)), np.arange(8) % 3

def train():
    keras.utils.set_random_seed(0)
    def make():
        dense = keras.layers.Dense(3, "softmax", kernel_regularizer="l2")
        return keras.Sequential([keras.Input((6,)), dense])
    model = Distiller(make(), make(), alpha=0.25)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    return model.student.get_weights()[0]

alone = train()
with tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"]).scope():
    together = train()
print(np.abs(alone - together).max() < 1e-6)
"""


@pytest.mark.slow
def test_several_replicas_learn_as_one():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == "True\n", result.stderr
