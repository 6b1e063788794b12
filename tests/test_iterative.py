"""Rounds of pruning and retraining."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune import geometric_sparsities, iterative_prune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 10)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]


def model_of(rate=0.05) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(20, "relu", name="first"), keras.layers.Dense(1, name="second")]
    model = keras.Sequential([keras.Input((10,)), *layers])
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def fit(**more):
    return {"x": X, "y": Y, "epochs": 2, "batch_size": 16, "verbose": 0, **more}


def kept(model: keras.Model) -> list[int]:
    return [int(np.count_nonzero(layer.kernel)) for layer in model.layers]


def test_geometric_sparsities():
    assert geometric_sparsities(0.875, 3) == pytest.approx([0.5, 0.75, 0.875])
    assert geometric_sparsities(0.9, 1) == [0.9]
    with pytest.raises(ValueError, match="rounds"):
        geometric_sparsities(0.9, 0)
    with pytest.raises(ValueError, match="final_sparsity"):
        geometric_sparsities(1.0, 2)


def test_zeros_at_every_batch_end_and_the_targets():
    model, seen = model_of(), []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(tuple(kept(model))))
    rounds = iterative_prune(model, fit(callbacks=[watch]), sparsities=[0.5, 0.75, 0.9])
    assert kept(model) == [20, 2]
    assert list(dict.fromkeys(seen)) == [(100, 10), (50, 5), (20, 2)]
    assert len(seen) == 3 * 2 * 4
    assert [done.sparsity for done in rounds] == pytest.approx([0.5, 0.75, 0.9])
    assert len(rounds) == 3
    assert rounds[2].history.keys() == {"loss"}


def test_survivors_are_kept():
    """Pruning changes no weight that survives: a round begins where the one before ended."""
    model, begins, ends = model_of(), [], []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: begins.append(model.layers[0].kernel.numpy()),
        on_train_end=lambda logs: ends.append(model.layers[0].kernel.numpy()),
    )
    iterative_prune(model, fit(callbacks=[watch]), sparsities=[0.5, 0.9])
    survivors = begins[1] != 0
    np.testing.assert_array_equal(begins[1][survivors], ends[0][survivors])
    assert np.abs(ends[0][~survivors]).max() <= np.abs(ends[0][survivors]).min()


def test_learning_rate_is_lower_while_it_retrains():
    model, rates = model_of(0.05), []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    rounds = iterative_prune(model, fit(callbacks=[watch]), sparsities=[0.5, 0.6])
    assert rates == pytest.approx([0.005] * 4)
    assert [done.learning_rate for done in rounds] == pytest.approx([0.005] * 2)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_learning_rate_comes_back_after_an_error():
    model = model_of(0.05)

    def fail(batch, logs):
        raise RuntimeError("out of power")

    callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=fail)]
    with pytest.raises(RuntimeError, match="out of power"):
        iterative_prune(model, fit(callbacks=callbacks), sparsities=[0.5])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)


def test_a_plateau_ends_a_round():
    model = model_of()
    rounds = iterative_prune(
        model,
        # A rate of almost nothing: the loss cannot improve.
        fit(epochs=20, validation_data=(X, np.zeros_like(Y))),
        sparsities=[0.5, 0.9],
        learning_rate_factor=1e-30,
        patience=2,
    )
    assert [done.epochs for done in rounds] == [3, 3]
    assert kept(model) == [20, 2]  # restoring the best weights brings no pruned weight back


def test_per_layer_allocation_is_reached_in_the_last_round():
    model, seen = model_of(), []
    watch = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(kept(model)))
    allocation = keras_prune.PerLayer({"first": 0.8, "second": 0.4})
    iterative_prune(model, fit(epochs=1, callbacks=[watch]), sparsities=[0.35, 0.7], options={"allocation": allocation})
    assert seen == [[120, 16], [40, 12]]  # half of the way: 0.4 of 200 and 0.2 of 20 weights pruned


def test_layers_option():
    model = model_of()
    rounds = iterative_prune(model, fit(epochs=1), sparsities=[0.5], options={"layers": "first"})
    assert kept(model) == [100, 20]
    assert rounds[0].sparsity == 0.5


def test_mixed_precision_optimizer():
    model = model_of()
    inner = keras.optimizers.SGD(0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    iterative_prune(model, fit(epochs=1), sparsities=[0.5])
    assert float(inner.learning_rate) == pytest.approx(0.1)
    assert kept(model) == [100, 10]


def test_table(capsys):
    rounds = iterative_prune(model_of(), fit(verbose=2, epochs=1), sparsities=[0.5, 0.9])
    assert "Round 2 of 2: 90.00% zeros, learning rate 0.005" in capsys.readouterr().out
    head, first, _ = str(rounds).splitlines()
    assert head.split() == ["round", "sparsity", "learning", "rate", "epochs", "loss"]
    assert first.split()[:4] == ["1", "50.00%", "0.005", "1"]


def test_wrong_arguments():
    model = model_of()
    with pytest.raises(ValueError, match="a target for each round"):
        iterative_prune(model, fit(), sparsities=[])
    with pytest.raises(ValueError, match="a target for each round"):
        iterative_prune(model, fit(), sparsities=0.9)
    with pytest.raises(ValueError, match="rise from round to round"):
        iterative_prune(model, fit(), sparsities=[0.9, 0.5])
    with pytest.raises(ValueError, match=r"sparsities\[1\]"):
        iterative_prune(model, fit(), sparsities=[0.9, 1.5])
    with pytest.raises(ValueError, match="learning_rate_factor"):
        iterative_prune(model, fit(), sparsities=[0.9], learning_rate_factor=0)
    with pytest.raises(TypeError, match="Keras 3 model"):
        iterative_prune("model", fit(), sparsities=[0.9])
    with pytest.raises(TypeError, match="ReduceLROnPlateau"):
        iterative_prune(model_of(keras.optimizers.schedules.CosineDecay(0.1, 10)), fit(), sparsities=[0.9])
    with pytest.raises(ValueError, match="compile"):
        iterative_prune(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]), fit(), sparsities=[0.9])


def test_what_fit_may_be():
    with pytest.raises(TypeError, match=r"fit: expected arguments of model.fit, such as dict\(x=x.*got 3"):
        iterative_prune(model_of(), 3, sparsities=[0.5])
    one = keras.callbacks.TerminateOnNaN()  # Keras takes it without a list, too
    assert len(iterative_prune(model_of(), fit(callbacks=one), sparsities=[0.5], patience=1)) == 1


def test_zeros_after_a_fit_that_moves_them():
    model = model_of()
    stray = keras.callbacks.LambdaCallback(on_train_end=lambda logs: model.layers[0].kernel.assign(np.ones((10, 20))))
    iterative_prune(model, fit(callbacks=[stray]), sparsities=[0.5, 0.75])
    assert kept(model) == [50, 5]


def test_the_allocation_is_asked_about_the_criterion():
    options = {"allocation": keras_prune.QualityParameter(1.0)}
    with pytest.raises(ValueError, match=r"QualityParameter: expected scores in standard deviations"):
        iterative_prune(model_of(), fit(), sparsities=[0.5], options=options)
    iterative_prune(model_of(), fit(), sparsities=[0.5], options={**options, "criterion": "standardized_magnitude"})


def test_what_a_later_round_cannot_have_is_said_before_the_first():
    model = model_of()
    before = model.get_weights()
    for options in ({"pattern": "n_by_m"}, {"allocation": keras_prune.FromSensitivity({"first": [(0, 1), (0.6, 1)]})}):
        with pytest.raises(ValueError, match=r"expected a sparsity up to 0\.[56]"):
            iterative_prune(model, fit(), sparsities=[0.3, 0.75], options=options)
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
