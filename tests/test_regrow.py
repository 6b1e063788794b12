"""Regrowing: golden masks with ties, counts, determinism, errors."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_prune import regrow
from keras_prune.patterns import Balanced, Block, NByM
from keras_prune.regrow import SET, Regrow, RigL

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
