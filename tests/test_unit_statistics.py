"""What is gathered of units in the training step, against an explicit second pass."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from unit_models import (  # type: ignore[import-not-found]
    RNG,
    SEQUENCES,
    X,
    Y,
    batches,
    cnn,
    compiled,
    dense,
    expected,
    group,
    groups_of_cnn,
    part,
    second_pass,
    site,
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


def fit(model, x=X, y=Y, **options):
    options = {"batch_size": 8, "epochs": 1, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, **options)


def gathered(model, groups, criterion, **options):
    """The statistics of one fit, connected while it lasts."""
    stats = UnitStatistics(criterion, groups)
    stats.connect(model)
    model.make_train_function(force=True)
    fit(model, **options)
    stats.disconnect()
    stats.check()
    assert stats.ready
    return stats


def at_sites(stats, groups):
    return [stats.statistic(site) for group in groups for site in group.sites]


MODES: dict[str, dict] = {
    "plain": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "3 steps": {"steps_per_execution": 3},
    "eager": {"run_eagerly": True},
}
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
