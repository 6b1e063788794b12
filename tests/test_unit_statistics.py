"""What is gathered of units in the training step, against an explicit second pass."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from unit_fits import MODES, at_sites, fit, gathered  # type: ignore[import-not-found]
from unit_models import (  # type: ignore[import-not-found]
    RNG,
    X,
    Y,
    batches,
    cnn,
    compiled,
    dense,
    expected,
    group,
    part,
    second_pass,
    taylor_of_example,
)

from keras_prune.criteria import (
    ActivationMean,
    ActivationStd,
    APoZ,
    Criterion,
    Magnitude,
    Movement,
    MutualInformation,
    Taylor,
    TaylorFO,
)
from keras_prune.unit_statistics import UnitStatistics, gathers_weights, observe_on

pytestmark = pytest.mark.usefixtures("seeded")
NAMES = ["first_out", "second"]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.0),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=1024.0),
    "loss scale factor": lambda: keras.optimizers.SGD(0.0, loss_scale_factor=64.0),
    "accumulation": lambda: keras.optimizers.SGD(0.0, gradient_accumulation_steps=2),
    "clipped": lambda: keras.optimizers.SGD(0.0, global_clipnorm=1e-3),
}
SLOW = pytest.mark.slow
WAYS = [
    *[("sgd", "plain"), ("loss scale", "plain"), ("sgd", "3 steps"), ("sgd", "eager"), ("loss scale", "jit")],
    *[pytest.param(name, "plain", marks=SLOW) for name in ("loss scale factor", "accumulation", "clipped")],
]


@pytest.mark.parametrize(("optimizer", "mode"), WAYS)
def test_taylor_is_that_of_a_second_pass(optimizer, mode):
    model, groups = cnn(optimizer=OPTIMIZERS[optimizer](), **MODES[mode])
    want = expected(model, NAMES, taylor_of_example)
    stats = gathered(model, groups, Taylor(), epochs=2)
    for found, wanted in zip(at_sites(stats, groups), want, strict=True):
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted, rel=2e-4, abs=1e-8)  # float32 sums in another order


@pytest.mark.parametrize(("optimizer", "mode"), WAYS)
def test_gates_are_those_of_a_second_pass(optimizer, mode):
    model, groups = cnn(optimizer=OPTIMIZERS[optimizer](), **MODES[mode])
    norm = model.get_layer("norm")
    totals = []
    for x, y in batches():
        state = [v.numpy() for v in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True))
        for variable, value in zip(model.non_trainable_variables, state, strict=True):
            variable.assign(value)
        dgamma, dbeta = tape.gradient(loss, [norm.gamma.value, norm.beta.value])
        totals.append((norm.gamma.numpy() * dgamma.numpy() + norm.beta.numpy() * dbeta.numpy()) ** 2)
    stats = gathered(model, groups, TaylorFO(), epochs=2)
    assert stats.gates(groups[0]) == pytest.approx(np.mean(totals, axis=0), rel=2e-4, abs=1e-10)
    assert stats.statistic(groups[0].sites[0]) is None
    # The other group has no gates: they are made up behind the layer.
    sums = [np.sum(a * g, axis=(0, 1, 2)) / 8 for batch in batches() for a, g in second_pass(model, ["second"], batch)]
    assert stats.gates(groups[1]) is None
    assert stats.statistic(groups[1].sites[0]) == pytest.approx(np.mean(np.square(sums), axis=0), rel=2e-4, abs=1e-10)


def test_a_gate_made_up_behind_a_layer_equals_the_sum_over_its_kernel_and_bias():
    model, groups = dense()
    hidden = model.get_layer("hidden")
    hidden.bias.assign(RNG.normal(size=5))
    sums = []
    for x, y in batches():
        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True))
        kernel, bias = tape.gradient(loss, [hidden.kernel.value, hidden.bias.value])
        sums.append((hidden.kernel.numpy() * kernel.numpy()).sum(axis=0) + hidden.bias.numpy() * bias.numpy())
    stats = gathered(model, groups, TaylorFO())
    assert at_sites(stats, groups)[0] == pytest.approx(np.mean(np.square(sums), axis=0), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("criterion", [Taylor(), TaylorFO()])
def test_groups_without_a_layer_to_observe_sum_over_their_kernels(criterion):
    """As attention heads: a unit has several indices of each kernel, and the axis is not the last."""
    model, _ = dense()
    kernel, out = model.get_layer("hidden").kernel, model.get_layer("out").kernel
    heads = group([part(kernel, 1, [7, 7, 9, -1, 9]), part(out, 0, [9, -1, 7, 7, 7])], name="heads")
    of_part = []
    for x, y in batches():
        with tf.GradientTape() as tape:
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, model(x), from_logits=True))
        of_kernel, of_out = tape.gradient(loss, [kernel.value, out.value])
        first = (kernel.numpy() * of_kernel.numpy()).sum(axis=0)
        second = (out.numpy() * of_out.numpy()).sum(axis=1)
        of_part.append([[first[[0, 1]].sum(), first[[2, 4]].sum()], [second[[2, 3, 4]].sum(), second[0]]])
    change = np.abs if criterion == Taylor() else np.square
    stats = gathered(model, [heads], criterion)
    assert stats.gates(heads) == pytest.approx(change(of_part).sum(axis=1).mean(axis=0), rel=1e-4, abs=1e-9)


OF_BATCH = {
    ActivationMean(): lambda a: np.abs(a).mean(axis=(0, 1, 2)),
    ActivationStd(): lambda a: a.std(axis=(0, 1, 2)),
    APoZ(): lambda a: (a != 0).mean(axis=(0, 1, 2)),
}


@pytest.mark.parametrize("mode", ["plain", "eager", *(pytest.param(mode, marks=SLOW) for mode in ("jit", "3 steps"))])
def test_activations_are_those_of_a_second_pass(mode):
    """Several criteria at once."""
    model, groups = cnn(**MODES[mode])
    passes = [second_pass(model, NAMES, batch) for batch in batches()]
    several = {criterion: UnitStatistics(criterion, groups) for criterion in OF_BATCH}
    for stats in several.values():
        stats.connect(model)
    fit(model)
    for criterion, stats in several.items():
        stats.disconnect()  # in the order in which they came
        for i, found in enumerate(at_sites(stats, groups)):
            wanted = np.mean([OF_BATCH[criterion](one[i][0]) for one in passes], axis=0)
            assert found == pytest.approx(wanted, rel=1e-5), criterion
    assert not any("call" in vars(layer) for layer in [model, *model.layers])


def test_activations_of_dense_layers():
    model, groups = dense()
    activations = [second_pass(model, ["hidden"], batch)[0][0] for batch in batches()]
    wanted = {
        ActivationMean(): np.abs(activations).mean(axis=(0, 1)),
        ActivationStd(): np.std(activations, axis=1).mean(axis=0),
        APoZ(): (np.array(activations) > 0).mean(axis=(0, 1)),
    }
    for criterion, want in wanted.items():
        assert at_sites(gathered(model, groups, criterion), groups)[0] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "mode"),
    [("numbers", "plain"), ("column", "eager"), ("one-hot", "plain"), pytest.param("numbers", "jit", marks=SLOW)],
)
def test_mutual_information_is_that_of_the_last_examples(labels, mode):
    criterion = MutualInformation(bins=3, examples=20)
    model, groups = cnn(**MODES[mode])
    values = np.concatenate([second_pass(model, NAMES, batch)[0][0].mean(axis=(1, 2)) for batch in batches()])
    wanted = criterion.score_examples(values[-20:], Y[-20:])
    y = {"numbers": Y, "column": Y[:, None], "one-hot": np.eye(4, dtype="float32")[Y]}[labels]
    if labels == "one-hot":
        model.compile(keras.optimizers.SGD(0.0), keras.losses.CategoricalCrossentropy(from_logits=True), **MODES[mode])
    stats = gathered(model, groups, criterion, y=y)
    assert at_sites(stats, groups)[0] == pytest.approx(wanted, abs=1e-6)


def test_mutual_information_asks_for_labels():
    model, groups = cnn()
    stats = UnitStatistics(MutualInformation(), groups)
    stats.connect(model)
    model.compile(keras.optimizers.SGD(0.0), lambda y, p: ops.mean(p) * ops.mean(y))
    with pytest.raises(ValueError, match=r"expected one label for each example.*got SymbolicTensor of rank 3"):
        fit(model, y=np.zeros((24, 2, 2), "float32"))


def test_batches_count_by_their_examples():
    model, groups = dense()
    want = expected(model, ["hidden"], taylor_of_example, size=10)  # 10, 10, 4
    stats = gathered(model, groups, Taylor(), batch_size=10)
    assert at_sites(stats, groups)[0] == pytest.approx(want[0], rel=1e-4)


def test_training_is_the_same_and_nothing_is_left_behind():
    results = []
    for watched in (False, True):
        keras.utils.set_random_seed(5)
        model, groups = cnn(optimizer=keras.optimizers.Adam(0.01))
        stats = UnitStatistics(Taylor(), groups)
        if watched:
            stats.connect(model)
        fit(model, epochs=3)
        stats.disconnect()
        results.append(model.get_weights())
        assert not any("call" in vars(layer) for layer in [model, *model.layers])
        assert not {"compute_loss", "apply"} & {*vars(model), *vars(model.optimizer)}
    for plain, other in zip(*results, strict=True):
        assert np.array_equal(plain, other)


def test_nothing_is_gathered_in_evaluation_or_without_the_hooks():
    model, groups = cnn()
    fit(model)  # the step is traced before
    stats = UnitStatistics(ActivationMean(), groups)
    stats.connect(model)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    assert not stats.ready
    with pytest.raises(ValueError, match=r"ActivationMean: expected gradients.*got none at first_out, second"):
        stats.check()
    model.make_train_function(force=True)
    fit(model, validation_data=(X, Y))
    stats.disconnect()
    model.make_train_function(force=True)
    fit(model)
    assert [observer.memory.count for observer in stats._observers.values()] == [24, 24]


def test_the_mean_begins_anew_after_masks_have_changed():
    model, groups = dense()
    stats = UnitStatistics(Taylor(), groups)
    stats.connect(model)
    fit(model)
    before = at_sites(stats, groups)[0]
    stats.updated()
    assert not stats.ready
    assert at_sites(stats, groups) == [None]
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(2 * hidden.kernel.numpy())
    fit(model)
    hidden_anew = at_sites(stats, groups)[0]
    assert hidden_anew != pytest.approx(before, rel=0.1)
    assert hidden_anew == pytest.approx(expected(model, ["hidden"], taylor_of_example)[0], rel=1e-4)


@pytest.mark.parametrize("criterion", [Taylor(), TaylorFO(), MutualInformation(examples=30)])
def test_the_state_is_saved_and_loaded(criterion):
    model, groups = cnn()
    stats = gathered(model, groups, criterion)
    other = UnitStatistics(criterion, groups)
    other.load({name: np.array(value) for name, value in stats.save().items()})
    for group_ in groups:
        assert (stats.gates(group_) is None) == (other.gates(group_) is None)
        for here, there in ((stats.statistic(s), other.statistic(s)) for s in group_.sites):
            assert (here is None and there is None) or np.array_equal(here, there)


@pytest.mark.parametrize("criterion", [Taylor(), TaylorFO(), ActivationMean(), MutualInformation(examples=24)])
def test_on_data_without_training(criterion):
    """As in training, but with the moving statistics; frozen layers too."""
    model, groups = cnn()
    norm = model.get_layer("norm")
    model.trainable = False
    stats = UnitStatistics(criterion, groups)
    observe_on(model, stats, batches())
    assert "call" not in vars(model.get_layer("second"))
    passes = [second_pass(model, NAMES, batch, training=False) for batch in batches()]
    a = np.concatenate([one[1][0] for one in passes])
    g = np.concatenate([one[1][1] for one in passes])
    wanted = {
        Taylor(): np.abs((a * g).mean(axis=(1, 2))).mean(axis=0),
        TaylorFO(): np.square((a * g).sum(axis=(1, 2)).reshape(3, 8, 4).mean(axis=1)).mean(axis=0),
        ActivationMean(): np.abs(a).mean(axis=(0, 1, 2)),
    }
    want = wanted.get(criterion, criterion.score_examples(a.mean(axis=(1, 2)), Y) if criterion.remembers else None)
    assert stats.statistic(groups[1].sites[0]) == pytest.approx(want, rel=1e-4, abs=1e-7)
    if criterion == TaylorFO():
        assert stats.gates(groups[0]) is not None
    assert norm.moving_mean.numpy().tolist() == [0] * 5  # nothing was trained


def test_on_data_needs_a_loss_and_data():
    model, groups = cnn()
    with pytest.raises(ValueError, match="at least one batch"):
        observe_on(model, UnitStatistics(Taylor(), groups), [])
    plain = keras.Model(model.input, model.output)
    with pytest.raises(ValueError, match=r"compiled with a loss.*model\.compile"):
        observe_on(plain, UnitStatistics(Taylor(), groups), (X, Y))
    observe_on(plain, UnitStatistics(ActivationMean(), groups), (X, Y))
    observe_on(plain, UnitStatistics(Magnitude(), groups), (X, Y))  # nothing to do


def test_frozen_layers_are_observed_too():
    model, groups = cnn()
    want = expected(model, NAMES, taylor_of_example)
    model.get_layer("first").trainable = False
    compiled(model)
    for found, wanted in zip(at_sites(gathered(model, groups, Taylor()), groups), want, strict=True):
        assert found == pytest.approx(wanted, rel=2e-4, abs=1e-8)


def test_layers_without_gradients_are_named():
    plain, groups = cnn()
    stopped = layers.Flatten()(layers.Lambda(tf.stop_gradient)(plain.get_layer("second").output))
    model = compiled(keras.Model(plain.inputs[0], layers.Dense(4)(stopped)))
    for name in ("first", "norm", "second"):
        model.get_layer(name).trainable = False
    stats = UnitStatistics(Taylor(), groups)
    stats.connect(model)
    fit(model)
    assert not stats.ready
    with pytest.raises(ValueError, match=r"Taylor: expected gradients.*got none at first_out, second; .*Channel\(prot"):
        stats.check()


def test_what_is_needed():
    _, groups = cnn()
    without_layer = [dataclasses.replace(groups[0], sites=())]
    assert not UnitStatistics(Magnitude(), groups).needed
    assert not UnitStatistics(lambda weights: weights, groups).needed
    assert UnitStatistics(Taylor(), groups).needs_loss
    assert not UnitStatistics(ActivationMean(), groups).needs_loss
    assert UnitStatistics(Taylor(), without_layer).needed
    with pytest.raises(ValueError, match=r"APoZ: expected a layer whose output shows the units of first"):
        UnitStatistics(APoZ(), without_layer)
    assert [gathers_weights(c) for c in (Magnitude(), Taylor(), Movement(), abs)] == [False, False, True, False]


def test_a_users_own_criterion():
    @dataclasses.dataclass(frozen=True)
    class Largest(Criterion):
        observes: ClassVar[str | None] = "activations"

        def observe(self, activation, gradient, axes):
            return ops.max(activation, axis=axes)

    model, groups = cnn()
    stats = gathered(model, groups, Largest())
    activations = np.concatenate([second_pass(model, ["second"], batch)[0][0] for batch in batches()])
    assert at_sites(stats, groups)[1] == pytest.approx(activations.max(axis=(1, 2)).mean(axis=0), rel=1e-5)
