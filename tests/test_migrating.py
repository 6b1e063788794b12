"""docs/migrating.md: TFMOT's guide in our API, from training to sizes, and every name that it maps."""

from __future__ import annotations

import gzip
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_prune

GUIDE = (pathlib.Path(__file__).resolve().parents[1] / "docs" / "migrating.md").read_text()
TFMOT_NAMES = """
    prune_low_magnitude prune_scope strip_pruning UpdatePruningStep PruningSummaries PruningSchedule ConstantSparsity
    PolynomialDecay PrunableLayer PruningPolicy PruneForLatencyOnXNNPack
""".split()


def test_every_public_name_of_tfmot_is_mapped():
    rows = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| ")]
    for name in TFMOT_NAMES:
        assert any(f"`{name}" in row for row in rows), name


def test_our_names_exist():
    ours = " ".join(line.split("|")[2] for line in GUIDE.splitlines() if line.startswith("| "))
    names = set(re.findall(r"[`=]([A-Za-z_]+)\(", ours)) - {"value"}  # a method that a schedule defines
    assert {"PruneCallback", "wrap", "Prune", "Block", "NByM", "strip", "sparsity_table", "wrapper_callbacks"} <= names
    for name in names:
        assert hasattr(keras_prune, name), name


def data(count, seed=0):
    """Ten classes of noisy patterns of 12 x 12."""
    patterns = np.random.default_rng(7).normal(size=(10, 12, 12))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    return (patterns[y] + 0.5 * rng.normal(size=(count, 12, 12))).astype(np.float32), y


@pytest.fixture(scope="module")
def trained():
    """The guide's first step: a small model, trained."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12)),
            keras.layers.Reshape((12, 12, 1)),
            keras.layers.Conv2D(12, (3, 3), activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    model.fit(*data(512), batch_size=64, epochs=3, verbose=0)
    return model


def dense_tflite(model):
    """The converter alone, as TFMOT's guide uses it."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_the_guides_steps(trained, tmp_path):
    x, y = data(512)
    x_test, y_test = data(256, seed=1)
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    before = dense_tflite(model)
    # Prune while fine-tuning, from 50 % to 80 %.
    end_step = 512 // 64 * 3
    schedule = keras_prune.PolynomialDecay(
        initial_sparsity=0.5, final_sparsity=0.8, begin_step=0, end_step=end_step, frequency=4
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=64, epochs=4, verbose=0, callbacks=[keras_prune.PruneCallback(schedule)])
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=0.005)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    assert accuracy >= trained.evaluate(x_test, y_test, verbose=0)[1] - 0.05  # of a task that is solved well
    # Strip, save, load.
    keras_prune.strip(model)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    for layer in loaded.layers:
        for kernel in (w.numpy() for w in layer.trainable_weights if w.name == "kernel"):
            assert np.mean(kernel == 0) == pytest.approx(0.8, abs=0.01)
    # Export and compare sizes: TFMOT's way needs gzip, ours does not.
    tfmots_way = dense_tflite(loaded)
    assert len(tfmots_way) > 0.95 * len(before)
    assert len(gzip.compress(tfmots_way)) < 0.5 * len(before)
    packed = keras_prune.export_tflite(loaded, tmp_path / "pruned.tflite", weights=keras_prune.Codebook(bits=4))
    assert (tmp_path / "pruned.tflite").stat().st_size == len(packed)
    assert len(packed) < 0.4 * len(before)  # the convolution and the graph stay as they are
    outputs = keras_prune.predict_tflite(packed, x_test)
    assert np.mean(np.argmax(outputs, axis=1) == y_test) >= accuracy - 0.05


def test_wrapped_models_as_tfmot_has_them(trained):
    schedule = keras_prune.ConstantSparsity(0.5, begin_step=0, frequency=4)
    model = keras_prune.wrap(trained, schedule)
    model.fit(*data(128), batch_size=64, epochs=1, verbose=0, callbacks=keras_prune.wrapper_callbacks(model))
    plain = keras_prune.strip(model)
    kernels = [w.numpy() for w in plain.trainable_weights if w.name == "kernel"]
    assert [np.mean(kernel == 0) for kernel in kernels] == pytest.approx([0.5] * 3)


def test_a_users_schedule_and_layers_as_tfmots_policy(trained):
    class Halves(keras_prune.Schedule):
        begin_step, end_step, frequency, final_sparsity = 0, 1, 1, 0.5

        def value(self, step):
            return 0.5

    model = keras.models.clone_model(trained)
    model.compile(optimizer="adam", loss="mse")
    x, _ = data(64)
    only_dense = keras_prune.PruneCallback(Halves(), layers=lambda variable: len(variable.shape) == 2)
    model.fit(x, np.zeros((64, 10)), batch_size=32, verbose=0, callbacks=[only_dense])
    zeros = {w.path.split("/")[-2]: np.mean(w.numpy() == 0) for w in model.trainable_weights if w.name == "kernel"}
    assert sorted(zeros.values()) == pytest.approx([0.0, 0.5, 0.5])
