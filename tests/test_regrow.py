"""Regrowing: golden masks with ties, counts, determinism, errors."""

from __future__ import annotations

import doctest

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_prune import PruneCallback, regrow
from keras_prune.allocation import kept_count
from keras_prune.criteria import Taylor
from keras_prune.masks import prunable
from keras_prune.patterns import Balanced, Block, NByM
from keras_prune.regrow import SET, Regrow, RigL
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

MASK = np.array([[1, 1, 0], [1, 1, 0]], np.uint8)
WEIGHTS = np.array([[5.0, -1.0, 0.0], [1.0, -4.0, 0.0]], np.float32)


@pytest.mark.parametrize(
    ("fraction", "gradient", "expected"),
    [
        (0.0, [[9, 9, 9], [9, 9, 9]], [[1, 1, 0], [1, 1, 0]]),
        (0.25, [[0, 0, 0.5], [0, 0, 0.5]], [[1, 1, 1], [0, 1, 0]]),  # ties: the first small one stays, the first grows
        (0.5, [[0, 0, -2], [0, 0, 1]], [[1, 0, 1], [0, 1, 1]]),
        (0.5, [[0, 3, 1], [2, 0, 0]], [[1, 1, 0], [1, 1, 0]]),  # what was dropped comes back
        (0.5, [[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [0, 1, 0]]),  # no gradients: those that come first
        (1.0, [[0, 0, 6], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]]),
    ],
)
def test_rigl_golden(fraction, gradient, expected):
    mask = RigL(fraction).update(MASK, WEIGHTS, np.array(gradient, np.float32))
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


@given(
    seed=st.integers(0, 1000),
    fraction=st.floats(0, 1),
    sparsity=st.floats(0, 0.95),
    pattern=st.sampled_from([None, Block((2, 3))]),
)
def test_counts_stay_and_the_largest_are_kept(seed, fraction, *, sparsity, pattern):
    rng = np.random.default_rng(seed)
    weights, gradient = rng.normal(size=(2, 7, 9)).astype(np.float32)
    size = 63 if pattern is None else 12
    units = (rng.permutation(size) >= round(size * sparsity)).astype(np.uint8)
    mask = units.reshape(7, 9) if pattern is None else pattern.spread(units, (7, 9))
    weights = weights * mask
    for way in (SET(fraction), RigL(fraction)):
        new = way.update(mask, weights, gradient, pattern=pattern, seed=("a", 3))
        if pattern is None:
            assert new.sum() == mask.sum()
            stays = mask.sum() - round(fraction * int(mask.sum()))
            assert new.reshape(-1)[np.argsort(-np.abs(weights).reshape(-1))[:stays]].all()
        else:
            assert (pattern.pool(new.astype(float)) > 0).sum() == units.sum()


def test_set_depends_on_seed_step_and_path_only():
    mask = np.repeat(np.array([1, 0], np.uint8), 50)
    weights = mask * np.arange(1.0, 101.0)
    grown = [SET(0.5, seed=s).update(mask, weights, seed=key) for s, key in [(0, ("a", 1)), (0, ("a", 1))]]
    assert np.array_equal(*grown)
    others = [
        SET(0.5, seed=s).update(mask, weights, seed=key) for s, key in [(1, ("a", 1)), (0, ("b", 1)), (0, ("a", 2))]
    ]
    assert len({m.tobytes() for m in [grown[0], *others]}) == 4


def test_fraction_falls_along_half_a_cosine():
    assert [round(SET(0.4).fraction_at(done), 6) for done in (-1, 0, 0.5, 1, 2)] == [0.4, 0.4, 0.2, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SET(1.5), r"SET.fraction: expected the fraction of kept weights.*got 1\.5"),
        (lambda: RigL().update(MASK, WEIGHTS), r"RigL: expected the mean gradient.*got None"),
        (lambda: SET().update(MASK, WEIGHTS, pattern=NByM(1, 2)), r"a pattern of free units.*got NByM"),
        (lambda: SET().update(MASK, WEIGHTS, pattern=Balanced()), r"a pattern of free units.*got Balanced"),
        (lambda: regrow.get("often"), r"regrow: expected one of 'set', 'rig_l'.*got 'often'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_get_and_round_trip():
    assert regrow.get("set") == SET()
    assert regrow.get("RigL") == RigL()
    assert (SET.gathers, RigL.gathers, RigL.resets) == (False, True, True)
    for way in (SET(0.2, 7), RigL(0.1)):
        assert type(way).from_config(way.get_config()) == way
    with pytest.raises(TypeError, match=r"did you mean SET\(fraction=0\.3\)"):
        regrow.get(0.3)
    with pytest.raises(NotImplementedError, match="must define grow"):
        Regrow.grow(SET(), 3, None, ())
    assert doctest.testmod(regrow).failed == 0


def trained(callbacks, **options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 12)).astype(np.float32), rng.integers(0, 4, 64)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, "relu", name="a"), keras.layers.Dense(4, name="b")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, **options)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)  # 24 steps
    return model


class Watch(keras.callbacks.Callback):
    """Masks at every batch end; weights outside of them must be zero."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_batch_end(self, batch, logs=None):
        masks = [variable.constraint.mask.numpy().astype(bool) for variable in prunable(self.model).values()]
        for variable, mask in zip(prunable(self.model).values(), masks, strict=True):
            assert not variable.numpy()[~mask].any()
        self.masks.append(masks)


@pytest.mark.parametrize("way", ["set", RigL(0.5)])
@pytest.mark.parametrize("mask_gradients", [False, True])
def test_constant_sparsity_with_places_that_change(way, mask_gradients):
    watch = Watch()
    schedule = ConstantSparsity(0.75, begin_step=4, end_step=20, frequency=4)
    model = trained([PruneCallback(schedule, regrow=way, mask_gradients=mask_gradients), watch])
    changes = [
        t + 1
        for t in range(23)
        if any(not np.array_equal(a, b) for a, b in zip(watch.masks[t], watch.masks[t + 1], strict=True))
    ]
    # Batches, counted from 0, at whose end masks change. At the last none regrow, but what was grown and is still zero
    # has the same score as what is pruned.
    assert changes[:4] == [3, 7, 11, 15]
    assert set(changes[4:]) <= {19}
    for masks in watch.masks[3:]:
        assert [mask.sum() for mask in masks] == [kept_count(mask.size, 0.75) for mask in masks]
    ever = np.any([masks[0] for masks in watch.masks[3:]], axis=0)
    assert ever.sum() > kept_count(12 * 16, 0.75)  # places have changed
    for variable, mask in zip(prunable(model).values(), watch.masks[-1], strict=True):
        assert not variable.numpy()[~mask].any()  # a weight that was grown at a dead unit may be zero too


def test_a_ramp_with_regrowing_ends_at_the_target_and_repeats():
    schedule = PolynomialDecay(final_sparsity=0.8, begin_step=0, end_step=16, frequency=2)
    models = [trained([PruneCallback(schedule, regrow=SET(0.3)), Watch()]) for _ in range(2)]
    for variables in zip(*(prunable(model).values() for model in models), strict=True):
        first, second = (variable.numpy() for variable in variables)
        assert np.count_nonzero(first) == kept_count(first.size, 0.8)
        assert np.array_equal(first != 0, second != 0)


def test_regrow_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"regrow: expected a pattern of free units"):
        PruneCallback(regrow="set", pattern=NByM(2, 4))
    with pytest.raises(ValueError, match=r"a criterion without gradients.*got criterion=Taylor\(reduction='mean'\)"):
        PruneCallback(regrow="rigl", criterion=Taylor())
    PruneCallback(regrow="set", criterion=Taylor())


def test_default_schedule_keeps_to_the_pattern():
    watch = Watch()
    model = trained([PruneCallback(pattern=NByM(2, 4)), watch])
    for variable in prunable(model).values():
        assert (np.count_nonzero(variable.numpy().T.reshape(-1, 4), axis=1) <= 2).all()
        assert variable.constraint.mask.numpy().mean() == 0.5
    with pytest.raises(ValueError, match=r"NByM.*expected a sparsity up to 0\.5, got 0\.8"):
        trained([PruneCallback(PolynomialDecay(), pattern=NByM(2, 4))])
