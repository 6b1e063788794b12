"""PruneCallback: exact zeros at every batch end, on every kind of model and training step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from callback_models import KINDS, MODES, Probe, Subclassed, X, assert_target, compiled, dense, fit, subclassed  # type: ignore[import-not-found]
from keras import layers

from keras_prune.allocation import Global, kept_count
from keras_prune.callbacks import PruneCallback
from keras_prune.masks import prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_zeros_at_every_batch_end_and_the_target_at_the_end(kind, mode):
    model, x = compiled(kind, **MODES[mode])
    before, after = Probe(), Probe()
    history = fit(model, x, before, PruneCallback(PolynomialDecay(final_sparsity=0.75)), after, batch_size=6)
    sparsities = history.history["sparsity"]
    assert len(sparsities) == 2
    assert after.logged[-1] == sparsities[-1] == pytest.approx(0.75, abs=0.03)
    assert after.zeros == sorted(after.zeros)
    assert all(zeros > logged - 1e-9 for zeros, logged in zip(after.zeros, after.logged, strict=True))
    assert before.zeros[-1] == after.zeros[-1]
    assert sum(v.constraint.mask.numpy().sum() for v in prunable(model).values()) > 0
    for path, variable in prunable(model).items():
        mask = variable.constraint.mask.numpy()
        assert np.count_nonzero(mask) == kept_count(mask.size, 0.75), path


def test_without_arguments_reaches_80_percent_then_fine_tunes():
    model, _ = compiled()
    probe = Probe()
    history = fit(model, X, PruneCallback(), probe, epochs=4)  # 24 steps: a ramp over 12
    assert history.history["sparsity"] == [pytest.approx(0.8 * (1 - 0.5**3), abs=0.02)] + [probe.zeros[-1]] * 3
    assert_target(model, 0.8)
    assert abs(sum(int((v.numpy() == 0).sum()) for v in prunable(model).values()) - 0.8 * 72) <= 1
    assert probe.logged == sorted(probe.logged)
    assert len(set(probe.logged)) > 8  # rises at nearly each step of the ramp
    assert set(probe.logged[11:]) == {probe.logged[-1]}


def test_constant_sparsity_holds_from_the_first_batch_on_an_unbuilt_model():
    model, _ = compiled(subclassed)
    before, after = Probe(), Probe()
    fit(model, X, before, PruneCallback(ConstantSparsity(0.5)), after)
    assert min(before.zeros) >= 0.5
    assert min(after.zeros) >= 0.5


def test_existing_constraints_go_on_working():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, kernel_constraint="non_neg", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(0.5))(hidden))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    probe = Probe()
    fit(model, X, PruneCallback(ConstantSparsity(0.5)), probe)
    first, second = (v.numpy() for v in prunable(model).values())
    assert (first >= 0).all()
    assert np.linalg.norm(second, axis=0).max() <= 0.5 + 1e-6
    assert (first == 0).sum() >= 24
    assert probe.zeros[-1] >= 0.5


def test_eager_step_and_custom_train_step():
    class Custom(Subclassed):
        def train_step(self, data):
            return super().train_step(data)

    model = Custom()
    model.compile("sgd", "mse", run_eagerly=True)
    probe = Probe()
    fit(model, X, PruneCallback(), probe)
    assert_target(model, 0.8)
    assert "train_step" not in model.__dict__  # the model is left as it was


def test_a_model_of_models_that_has_no_call():
    class Trainer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = dense()[0]

        def train_step(self, data):
            x, y = data
            import tensorflow as tf  # noqa: PLC0415

            with tf.GradientTape() as tape:
                loss = keras.ops.mean(keras.losses.mean_squared_error(y, self.inner(x)))
            variables = self.inner.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    model = Trainer()
    model.compile("sgd")
    probe = Probe()
    fit(model, X, PruneCallback(), probe)
    assert probe.zeros[-1] >= 0.79


def test_global_allocation_meets_the_total():
    model, _ = compiled()
    fit(model, X, PruneCallback(allocation="global"))
    assert sum(np.count_nonzero(v.numpy()) for v in prunable(model).values()) == kept_count(72, 0.8)


def test_two_callbacks_for_different_layers():
    model, _ = compiled()
    fit(
        model,
        X,
        PruneCallback(ConstantSparsity(0.5), layers="hidden"),
        PruneCallback(ConstantSparsity(0.75), allocation=Global(), layers="out"),
    )
    hidden, out = prunable(model).values()
    assert (np.count_nonzero(hidden.numpy()), np.count_nonzero(out.numpy())) == (24, 6)


def test_a_model_that_cannot_be_built_from_its_data_is_refused():
    class Pair(Subclassed):
        def call(self, x, y):
            return super().call(x) - y

        def train_step(self, data):
            return {"loss": keras.ops.mean(self(*data))}

    model = Pair()
    model.compile("sgd")
    message = r"expected all variables before the first training step.*call the model on a batch.*missing.*'y'"
    with pytest.raises(ValueError, match=message):
        fit(model, X, PruneCallback())
