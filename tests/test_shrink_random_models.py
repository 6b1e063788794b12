"""Random models: shrunk, they compute what they do with the same units masked; and they go on from there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]
from random_models import random_model  # type: ignore[import-not-found]

import keras_prune
from keras_prune.graph import dependencies

QUICK, ALL = range(12), range(300)
# No axis is as long as this number of examples: where one is, `keras.ops.add` would take (17, 1, 1, 1) for a bias of 17
# channels when it runs eagerly.
BATCH = 17


def seeds(quick, every):
    """Only the quick ones run by default."""
    return [pytest.param(seed, marks=() if seed in quick else pytest.mark.slow) for seed in every]


def pruned(model, fraction, seed):
    """Masks random units, and measures batch statistics without them; whether there were any that may go."""
    if not dependencies(model).free:
        with pytest.raises(ValueError, match="expected channels that may go, got none in this model"):
            keras_prune.prune(model, fraction, criterion="random", pattern=keras_prune.Channel())
        return False
    keras_prune.prune(model, fraction, criterion=keras_prune.Random(seed), pattern=keras_prune.Channel())
    checks.measure_statistics(model, seed)
    return True


def alive(model, x):
    """Whether each output tells inputs apart."""
    return all(
        np.abs(value - np.roll(value, 1, axis=0)).max() > checks.ALIVE * np.abs(value).max()
        for value in checks.outputs(model, x)
    )


def shrunk(seed):
    """A random model, masked and shrunk; None if all of its channels must stay."""
    model = random_model(seed)
    x = checks.random_inputs(model, BATCH)
    deps = dependencies(model)
    assert all(group.protected for group in deps.groups if group not in deps.free)
    for attempt in range(8):  # of few units, all may be dead
        keras_prune.strip(model)
        checks.randomize(model, 8 * seed + attempt)
        if not pruned(model, 0.3 if seed % 2 else 0.6, seed):
            return None
        if alive(model, x):
            break
    return checks.Removal(model, keras_prune.shrink(model), x, checks.outputs(model, x), 0)


@pytest.mark.parametrize("seed", seeds(QUICK, ALL))
def test_random_models_compute_the_same(seed):
    removal = shrunk(seed)
    if removal is not None:
        checks.check_structure(removal)
        checks.check_equal(removal)
        checks.check_smaller(removal)
        # Nothing is left that could go.
        assert keras_prune.shrink(removal.shrunk).count_params() == removal.shrunk.count_params()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras when it runs eagerly
@pytest.mark.parametrize("seed", seeds((0, 3), range(100)))
def test_random_models_go_on(seed, tmp_path):
    """Trained between pruning and pruning, shrunk twice, saved; and what was removed is removed from a new one."""
    model = random_model(seed)
    history = keras_prune.ShrinkHistory()
    checks.randomize(model, seed)
    model.compile("adam", "mse", run_eagerly=True)
    x = checks.random_inputs(model, BATCH)
    y = keras.tree.map_structure(keras.ops.ones_like, model(x))
    for number in range(2):
        for fraction in (0.2, 0.4):
            if not pruned(model, fraction, seed + number):
                return
            assert np.isfinite(model.train_on_batch(x, y)).all()
        if number:
            checks.remember_in_slots(model)
        smaller = keras_prune.shrink(model, history=history)
        assert checks.difference(checks.outputs(smaller, x), checks.outputs(model, x)) <= checks.TOLERANCE
        assert int(smaller.optimizer.iterations) == 2 * (number + 1)
        model = smaller
    assert checks.check_slots(model, folded=True) > 0
    want = checks.outputs(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert checks.difference(checks.outputs(loaded, x), want) == 0
    again = history.replay(random_model(seed))
    again.set_weights(model.get_weights())
    assert checks.difference(checks.outputs(again, x), want) == 0


@pytest.mark.parametrize("seed", seeds((), range(12)))  # without ConvLSTM, whose loop the converter cannot express
def test_files_of_random_models(seed):
    """In the device runtime, too."""
    removal = shrunk(seed)
    if removal is not None:
        checks.check_files(removal)
