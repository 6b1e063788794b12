"""PruneCallback in a second fit, and after one: it continues, begins anew, or is refused."""

from __future__ import annotations

import keras
import pytest
from callback_models import MODES, Probe, X, assert_target, compiled, fit  # type: ignore[import-not-found]

from keras_prune.callbacks import PruneCallback
from keras_prune.masks import prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay
from keras_prune.surgery import prune, strip

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("mode", MODES)
def test_a_model_already_fitted(mode):
    model, _ = compiled(**MODES[mode])
    fit(model)
    probe = Probe()
    fit(model, X, PruneCallback(), probe)
    assert probe.zeros[-1] >= 0.79
    assert_target(model, 0.8)


def test_the_same_callback_continues():
    model, _ = compiled()
    callback = PruneCallback(PolynomialDecay(begin_step=0, end_step=18))
    first = fit(model, X, callback).history["sparsity"]
    train_function = model.train_function
    second = fit(model, X, callback).history["sparsity"]
    assert first[-1] < 0.8
    assert second[0] == pytest.approx(0.8, abs=0.01)
    assert callback.step == 24
    assert model.train_function is train_function  # masks were there: nothing is compiled again
    third = fit(model, X, callback).history["sparsity"]
    assert third == [second[-1]] * 2


def test_a_new_callback_begins_where_the_model_is():
    model, _ = compiled()
    fit(model, X, PruneCallback(ConstantSparsity(0.5)))
    again = Probe()
    fit(model, X, PruneCallback(), again)
    assert again.zeros[0] >= 0.5
    assert_target(model, 0.8)
    prune(model, 0.9)
    fit(model, X, PruneCallback())
    assert_target(model, 0.9)


def test_training_goes_on_sparse_without_a_callback():
    model, _ = compiled()
    fit(model, X, PruneCallback())
    fit(model)
    assert_target(model, 0.8)
    strip(model)
    fit(model)
    for variable in prunable(model).values():  # only what gets no gradient at all stays, as the optimizer has forgotten
        assert (variable.numpy() == 0).mean() < 0.3


def test_the_same_callback_after_strip_masks_again():
    model, _ = compiled()
    callback = PruneCallback()
    fit(model, X, callback)
    strip(model)
    fit(model)
    probe = Probe()
    fit(model, X, callback, probe)
    assert min(probe.zeros) >= 0.79


def test_one_callback_one_model():
    (first, _), (second, _) = compiled(), compiled()
    callback = PruneCallback()
    fit(first, X, callback)
    with pytest.raises(ValueError, match=r"expected the model that this callback began with.*make a new PruneCallback"):
        fit(second, X, callback)
    with pytest.raises(ValueError, match=r"expected each callback once in fit\(callbacks=\.\.\.\), got this one twice"):
        fit(first, X, callback, callback)
    message = r"one PruneCallback or Pruner for each weight, got two for hidden/kernel.*its own layers"
    with pytest.raises(ValueError, match=message):
        fit(first, X, PruneCallback(), PruneCallback())
    fit(first, X, callback)  # an interrupted fit leaves nothing behind


def test_a_training_that_was_interrupted():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, _ = compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, PruneCallback(), Stop())
    fit(model, X, PruneCallback())
    assert_target(model, 0.8)
