"""Small models of every kind: shrunk, they compute what they do with the same units masked to zero."""

from __future__ import annotations

import functools

import channel_convolutions  # type: ignore[import-not-found]
import channel_joins  # type: ignore[import-not-found]
import channel_places  # type: ignore[import-not-found]
import channel_sequences  # type: ignore[import-not-found]
import keras
import numpy as np
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]

from keras_prune.graph import dependencies

MODULES = (channel_convolutions, channel_joins, channel_places, channel_sequences)
CASES = {name: case for module in MODULES for name, case in module.CASES.items()}
FRACTIONS = [pytest.param(0.3, marks=pytest.mark.slow), 0.6]
# Tracing and converting take seconds: ways of depending that no other of these has.
QUICK = {"plain", "depthwise_multiplier", "grouped", "decoder", "shuffle", "padded_shortcut", "gru", "transformer"}
QUICK_FILES = {"plain", "decoder"}  # converting takes the longest
# Loops of recurrent layers, which the converter cannot express unless they are unrolled.
LOOPS = {"gru_reset_before", "simple_rnn", "convolution_then_gru", "bidirectional", "bidirectional_sum", "states"}
LOOPS |= {"masked_text", "time_distributed", "frames", "frames_by_layer", "clip"}
LOOPS |= {"convolution_with_memory", "convolutions_with_memory"}
# What else the converter refuses: MaxPooling3D and bicubic interpolation, for which TFLite has nothing; a list among
# the outputs by name.
REFUSED = LOOPS | {"volumes", "several_outputs", "resized"}


def slow_but(quick, names):
    """Only the quick ones run by default."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@functools.cache
def shrunk(name, fraction):
    """One case, masked and shrunk, once for all tests of it; its optimizer's slots tell which weight they are of."""
    keras.utils.set_random_seed(0)
    model = CASES[name].build()
    checks.randomize(model)
    model.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    return checks.remove(model, fraction, folded=CASES[name].folded)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_masked_model(name, fraction):
    removal = shrunk(name, fraction)
    checks.check_structure(removal)
    checks.check_equal(removal)
    checks.check_smaller(removal)


@pytest.mark.parametrize("name", CASES)
def test_removes_the_units_counted_by_hand(name):
    case = CASES[name]
    model = case.build()
    deps = dependencies(model)
    if case.units is not None:
        assert sum(len(group.units) for group in deps.free) == case.units, str(deps)
    assert sum(len(group.units) for group in deps.free) > 0
    for layer in case.refused:
        assert layer in deps.refused, str(deps)
    removal = shrunk(name, 0.6)
    before = {layer.name: layer for layer in checks.layers_within_order(removal.masked)}
    after = {layer.name: layer for layer in checks.layers_within_order(removal.shrunk)}
    for layer in case.narrower:
        assert after[layer].weights[-1].shape[-1] < before[layer].weights[-1].shape[-1], layer
    for layer in case.whole:
        assert after[layer].weights[-1].shape[-1] == before[layer].weights[-1].shape[-1], layer


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("name", CASES)
def test_wrong_indices_would_be_noticed(name, fraction):
    assert checks.check_swaps(shrunk(name, fraction), CASES[name].unseen) > 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras when it runs eagerly
@pytest.mark.parametrize("name", slow_but(QUICK, CASES))
def test_trains_and_saves(name, tmp_path):
    """With its optimizer's state; another that reads the file computes the same."""
    removal = shrunk(name, 0.6)
    path = tmp_path / "model.keras"
    removal.shrunk.save(path)
    loaded = keras.models.load_model(path)
    assert checks.difference(checks.outputs(loaded, removal.x), removal.want) <= checks.TOLERANCE
    before = [variable.numpy() for variable in loaded.trainable_variables]
    targets = keras.tree.map_structure(lambda value: np.zeros(value.shape, "float32"), loaded(removal.x))
    assert np.isfinite(loaded.train_on_batch(removal.x, targets)).all()
    assert all((a != b.numpy()).any() for a, b in zip(before, loaded.trainable_variables, strict=True))


@pytest.mark.parametrize("name", slow_but(QUICK_FILES, (name for name in CASES if name not in REFUSED)))
def test_files_are_smaller(name):
    checks.check_files(shrunk(name, 0.6))
