"""PruneCallback: exact zeros at every batch end, on every kind of model and training step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from absl import logging
from keras import layers

from keras_prune.allocation import Global, kept_count
from keras_prune.callbacks import PruneCallback
from keras_prune.masks import mask_constraint, prunable
from keras_prune.schedules import ConstantSparsity, PolynomialDecay
from keras_prune.surgery import prune, strip

pytestmark = pytest.mark.usefixtures("seeded")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
IMAGES = RNG.normal(size=(48, 6, 6, 2)).astype("float32")
TOKENS = RNG.integers(0, 9, size=(48, 5))


class Probe(keras.callbacks.Callback):
    """Checks at every batch end that what the masks prune is exactly zero, and records sparsities."""

    def __init__(self):
        super().__init__()
        self.zeros, self.logged = [], []

    def on_train_batch_end(self, batch, logs=None):
        zeros = size = 0
        for path, variable in prunable(self.model).items():
            weights, constraint = variable.numpy(), mask_constraint(variable)
            if constraint is not None:
                pruned = weights[constraint.mask.numpy() == 0]
                assert (pruned == 0).all(), path
                assert not np.signbit(pruned).any(), path
            zeros += (weights == 0).sum()
            size += weights.size
        self.zeros.append(zeros / size)
        self.logged.append(logs.get("sparsity"))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, activation="relu")
        self.out = layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def dense():
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")]), X


def conv():
    stack = [layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization(), layers.DepthwiseConv2D(2)]
    return keras.Sequential([keras.Input((6, 6, 2)), *stack, layers.Flatten(), layers.Dense(3)]), IMAGES


def lstm():
    return keras.Sequential([keras.Input((5, 1)), layers.LSTM(4), layers.Dense(3)]), TOKENS[..., None].astype("float32")


def embedding():
    stack = [layers.Embedding(9, 4), layers.GlobalAveragePooling1D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((5,), dtype="int32"), *stack]), TOKENS


def attention():
    inputs = keras.Input((5, 1))
    x = layers.Dense(4)(inputs)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), TOKENS[..., None].astype("float32")


def subclassed():
    return Subclassed(), X


def unbuilt():
    return keras.Sequential([layers.Dense(8, "relu"), layers.Dense(3)]), X


def two_inputs():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(4)
    return keras.Model({"a": a, "b": b}, layers.Dense(3)(layers.Concatenate()([shared(a), shared(b)]))), {
        "a": X,
        "b": X,
    }


KINDS = [dense, conv, lstm, embedding, attention, subclassed, unbuilt, two_inputs]
MODES: dict[str, dict] = {
    "plain": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "4 steps": {"steps_per_execution": 4},
}


def fit(model, x=X, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, **options}
    return model.fit(x, Y, callbacks=list(callbacks), **options)


def compiled(kind=dense, **options):
    model, x = kind()
    model.compile("adam", "mse", **options)
    return model, x


def assert_target(model, sparsity):
    for path, variable in prunable(model).items():
        size = int(np.prod(variable.shape))
        assert np.count_nonzero(variable.numpy()) == kept_count(size, sparsity), path


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


def test_masks_change_at_the_schedules_steps_only():
    model, _ = compiled()
    probe = Probe()
    fit(model, X, PruneCallback(PolynomialDecay(0.25, 0.75, begin_step=2, end_step=8, power=1, frequency=4)), probe)
    # Steps 2, 6 and 8: masks change at the end of the batch before.
    expected = [0.0] + [0.25] * 4 + [0.25 + 0.5 * 4 / 6] * 2 + [0.75] * 5
    assert probe.logged == pytest.approx(expected, abs=0.01)


def test_steps_per_execution_misses_no_update():
    model, _ = compiled(steps_per_execution=4)
    probe = Probe()
    schedule = PolynomialDecay(0.25, 0.75, begin_step=1, end_step=11, power=1, frequency=5)
    fit(model, X, PruneCallback(schedule), probe, batch_size=6)  # 4, 8, 12, 16 steps done; updates at 1, 6, 11
    assert probe.logged == pytest.approx([0.25, 0.5, 0.75, 0.75], abs=0.01)


def test_a_short_last_execution_is_counted():
    model, _ = compiled(steps_per_execution=4)
    callback = PruneCallback()
    fit(model, X, callback)  # 6 batches an epoch: executions of 4 and 2
    assert callback.step == model.optimizer.iterations.numpy()  # 12; older Keras leaves the short one out
    assert_target(model, 0.8)


def test_end_step_at_the_very_end_is_reached():
    model, _ = compiled()
    history = fit(model, X, PruneCallback(PolynomialDecay(begin_step=0, end_step=12)))
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    assert_target(model, 0.8)


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


def test_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model, _ = compiled()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    probe = Probe()
    fit(model, X, PruneCallback(), probe)
    assert probe.zeros[-1] >= 0.79
    assert_target(model, 0.8)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.optimizers.AdamW(0.1, weight_decay=0.1),
        keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
        keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5),
        keras.optimizers.Adam(0.1, use_ema=True, ema_overwrite_frequency=2),
    ],
    ids=["momentum", "adamw", "accumulation", "ema", "ema overwrite"],
)
def test_optimizers(optimizer):
    model, _ = dense()
    model.compile(optimizer, "mse")
    fit(model, X, Probe(), PruneCallback(), Probe())
    assert_target(model, 0.8)


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


def generator():
    for start in range(0, 48, 8):
        yield X[start : start + 8], Y[start : start + 8]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # at the end of a generator, always
def test_data_of_unknown_length():
    model, _ = compiled()
    with pytest.raises(
        ValueError, match=r"expected data of known length.*fit\(steps_per_epoch=\.\.\.\).*end_step=1000"
    ):
        model.fit(generator(), verbose=0, shuffle=False, callbacks=[PruneCallback()])
    model.fit(
        generator(), verbose=0, shuffle=False, callbacks=[PruneCallback(PolynomialDecay(begin_step=0, end_step=4))]
    )
    assert_target(model, 0.8)
    model, _ = compiled()
    model.fit(generator(), verbose=0, shuffle=False, steps_per_epoch=5, callbacks=[PruneCallback()])
    assert_target(model, 0.8)


def test_first_epoch_is_not_zero():
    model, _ = compiled()
    callback = PruneCallback()
    fit(model, X, callback, initial_epoch=2, epochs=4)
    assert_target(model, 0.8)
    assert callback.step == 12


def test_ending_early_is_said(caplog):
    model, _ = compiled()
    logging.get_absl_logger().propagate = True
    fit(model, X, PruneCallback(PolynomialDecay(begin_step=0, end_step=100)), epochs=1)
    assert "training ended after step 6, before the schedule's end_step=100; sparsity is" in caplog.text


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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PruneCallback(0.9), TypeError, r"schedule: expected a keras_prune schedule.*final_sparsity=0\.9"),
        (lambda: PruneCallback("cosine"), ValueError, r"schedule: expected one of"),
        (lambda: PruneCallback(criterion=1), TypeError, r"criterion: expected"),
        (lambda: PruneCallback(pattern="2:4"), ValueError, r"pattern: expected one of"),
        (lambda: PruneCallback(allocation="fair"), ValueError, r"allocation: expected one of"),
        (lambda: PruneCallback().set_model(3), TypeError, r"expected a Keras 3 model"),
        (
            lambda: fit(compiled()[0], X, PruneCallback(layers="x")),
            ValueError,
            r"got 'x'; this model has: hidden/kernel",
        ),
        (lambda: fit(compiled()[0], X, PruneCallback(allocation={"x": 0.5})), ValueError, r"PerLayer: expected names"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
