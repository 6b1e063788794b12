"""What loses zeros elsewhere: averages, restored weights, checkpoints, further fits and new processes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.allocation import kept_count
from keras_prune.callbacks import PruneCallback
from keras_prune.gradients import slots
from keras_prune.masks import mask_constraint, prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # Keras' own saving on NumPy 2
]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")


def network(optimizer="adam", **options):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")])
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def sparsities(model):
    return [float((v.numpy() == 0).mean()) for v in prunable(model).values()]


def assert_target(model, sparsity=0.8):
    for path, variable in prunable(model).items():
        assert np.count_nonzero(variable.numpy()) == kept_count(int(np.prod(variable.shape)), sparsity), path


class Saved(keras.callbacks.Callback):
    """The sparsities of the model at every epoch's end, as a checkpoint would see them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(np.concatenate([v.numpy().reshape(-1) == 0 for v in prunable(self.model).values()]).mean())


@pytest.mark.parametrize("overwrite", [None, 3])
def test_averages_of_weights_are_as_sparse(overwrite):
    optimizer = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=overwrite)
    model = network(optimizer)
    fit(model, PruneCallback(PolynomialDecay(final_sparsity=0.75)), epochs=3)
    assert_target(model, 0.75)
    by_owner = slots(optimizer, model.trainable_variables)
    for variable in prunable(model).values():
        (average,) = (slot for slot in by_owner[id(variable)] if slot.name.endswith("_average"))
        assert (average.numpy() == variable.numpy()).all()


@pytest.mark.parametrize("first", [True, False])
def test_swapped_averages_are_sparse_at_every_epochs_end(first):
    model = network(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.9))
    swap, saved = keras.callbacks.SwapEMAWeights(swap_on_epoch=True), Saved()
    prune = PruneCallback(ConstantSparsity(0.75))
    fit(model, *([prune, swap] if first else [swap, prune]), saved, epochs=3)
    assert saved.seen == [pytest.approx(0.75)] * 3
    assert_target(model, 0.75)


@pytest.mark.parametrize(("first", "verbose"), [(True, 0), (True, 2), (False, 0), (False, 2)])
def test_early_stopping_restores_sparse_weights(first, verbose):
    model = network(keras.optimizers.SGD(0.01))
    # The monitored value only worsens: the best weights are the first, which are dense.
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(worse=epoch))
    stopping = keras.callbacks.EarlyStopping("worse", mode="min", restore_best_weights=True, patience=4)
    prune = PruneCallback(PolynomialDecay(begin_step=6, end_step=24, frequency=1))
    callbacks = [prune, stopping] if first else [stopping, prune]
    fit(model, count, *callbacks, epochs=9, verbose=verbose)
    assert prune.step < 54  # it did stop
    assert stopping.best_epoch == 0
    assert_target(model)
    for variable in prunable(model).values():
        weights, mask = variable.numpy(), mask_constraint(variable).mask.numpy()
        assert not np.signbit(weights[mask == 0]).any()
    fit(model)  # the hook is gone, the masks are not
    assert_target(model)


def test_the_users_own_history_may_come_last():
    model, history = network(), keras.callbacks.History()
    stopping = keras.callbacks.EarlyStopping("sparsity", mode="min", restore_best_weights=True, patience=0)
    for _ in range(2):
        fit(model, PruneCallback(ConstantSparsity(0.5)), stopping, history)
        assert sparsities(model) == [0.5, pytest.approx(0.5)]
        assert "on_train_end" not in vars(history)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("name", "frequency"), [("model.keras", "epoch"), ("model.weights.h5", 4)])
def test_checkpoints_are_sparse_in_either_order(tmp_path, first, *, name, frequency):
    model, prune = network(), PruneCallback(ConstantSparsity(0.75))
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / name, save_freq=frequency, save_weights_only=name.endswith("h5")
    )
    fit(model, *([prune, checkpoint] if first else [checkpoint, prune]))
    if name.endswith("h5"):
        loaded = network()
        loaded.optimizer.build(loaded.trainable_variables)  # or Keras warns that it leaves its state out
        loaded.load_weights(tmp_path / name)
    else:
        loaded = keras.models.load_model(tmp_path / name)
    assert_target(loaded, 0.75)
    assert [type(layer).__name__ for layer in loaded.layers] == ["Dense", "Dense"]
    assert all(v.constraint is None for v in loaded.trainable_variables)


def test_files_of_the_trained_model_are_plain():
    model = network()
    fit(model, PruneCallback())
    assert not [name for name in vars(model) if name.startswith("keras_prune")]
    assert len(model.weights) == 4
    assert [metric.name for metric in model.metrics] == ["loss"]


def test_second_and_third_fit_with_new_callbacks():
    model = network()
    for sparsity in (0.5, 0.75, 0.9):
        fit(model, PruneCallback(PolynomialDecay(final_sparsity=sparsity)))
        assert_target(model, sparsity)


@pytest.mark.parametrize("open_steps", [True, False])
def test_a_new_process_with_an_initial_epoch(tmp_path, open_steps):
    """Whole and in two parts, the second from a file alone: the same masks at every step."""
    schedule = PolynomialDecay(final_sparsity=0.75, frequency=2)
    if not open_steps:
        schedule = PolynomialDecay(final_sparsity=0.75, begin_step=2, end_step=19, frequency=2)

    class Masks(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            masks = [mask_constraint(v).mask.numpy().reshape(-1) for v in prunable(self.model).values()]
            self.seen.append(np.concatenate(masks).tolist())

    whole, masks = network(), Masks()
    start = whole.get_weights()
    fit(whole, PruneCallback(schedule), masks, epochs=4, shuffle=False)

    model, parts = network(), Masks()
    model.set_weights(start)
    fit(model, PruneCallback(schedule), parts, epochs=2 if not open_steps else 4, shuffle=False)
    if open_steps:  # a ramp that is chosen from the number of epochs needs them
        model, parts = network(), Masks()
        model.set_weights(start)

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 1

        fit(model, PruneCallback(schedule), parts, Stop(), epochs=4, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    callback = PruneCallback(schedule)
    fit(loaded, callback, parts, initial_epoch=2, epochs=4, shuffle=False)
    assert callback.step == 24 == loaded.optimizer.iterations.numpy()
    assert parts.seen == masks.seen
    assert_target(loaded, 0.75)


def test_a_dense_model_that_goes_on_to_be_pruned_begins_its_ramp_there():
    model, callback = network(), PruneCallback()
    fit(model)
    history = fit(model, callback, initial_epoch=2, epochs=6)
    assert callback.step == 24
    assert history.history["sparsity"][0] < 0.8
    assert_target(model)
    model, callback = network(), PruneCallback(PolynomialDecay(begin_step=12, end_step=24))
    fit(model)
    history = fit(model, callback, initial_epoch=2, epochs=6)  # steps of a user are those of the whole training
    assert callback.step == 36
    assert history.history["sparsity"] == [pytest.approx(0.7, abs=0.02)] + [pytest.approx(0.8, abs=0.01)] * 3
    assert_target(model)
