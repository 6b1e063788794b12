"""The history of removals: replayed on a fresh model, saved and loaded."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune.graph import dependencies


def build(hidden=12):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    h = keras.layers.Dense(hidden, "relu", name="first")(x)
    h = h + keras.layers.Dense(hidden, "relu", name="second")(h)
    return keras.Model(x, keras.layers.Dense(3, name="out")(keras.layers.Dense(8, "relu", name="third")(h)))


def remove(model, count, history):
    found = dependencies(model)
    removed = np.zeros(found.num_units, bool)
    for group in found.free:
        removed[group.units[:count]] = True
    found.set_zero(removed)
    return keras_prune.shrink(model, history=history)


def test_three_rounds_are_replayed_on_a_fresh_model():
    history = keras_prune.ShrinkHistory()
    small = build()
    for count in (3, 2, 1):
        small = remove(small, count, history)
    assert [layer.units for layer in small.layers if hasattr(layer, "units")] == [6, 6, 2, 3]
    again = history.replay(build())
    again.set_weights(small.get_weights())
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_array_equal(again(x).numpy(), small(x).numpy())


def test_it_keeps_the_fresh_models_weights():
    history = keras_prune.ShrinkHistory()
    remove(build(), 3, history)
    fresh = build()
    kernel = fresh.get_layer("first").kernel.numpy()
    np.testing.assert_array_equal(history.replay(fresh).get_layer("first").kernel.numpy(), kernel[:, 3:])


def test_channels_under_a_normalization():
    def normalized():
        x = inputs = keras.Input((4, 4, 3))
        for name, norm in (("a", keras.layers.LayerNormalization()), ("b", keras.layers.GroupNormalization(2))):
            x = norm(keras.layers.Conv2D(8, 1, name=name)(x))
        return keras.Model(inputs, keras.layers.Dense(3, name="out")(keras.layers.Flatten()(x)))

    history = keras_prune.ShrinkHistory()
    model = keras_prune.prune(normalized(), 0.5, pattern=keras_prune.Channel(exact=False))
    small = keras_prune.shrink(model, exact=False, history=history)
    again = history.replay(normalized(), exact=False)
    assert [v.shape for v in again.variables] == [v.shape for v in small.variables]
    assert again.get_layer("b").kernel.shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match="give exact=False if it was shrunk so"):
        history.replay(normalized())


def test_save_and_load(tmp_path):
    history = keras_prune.ShrinkHistory()
    small = remove(remove(build(), 3, history), 2, history)
    history.save(tmp_path / "history.json")
    loaded = keras_prune.ShrinkHistory.load(tmp_path / "history.json")
    assert loaded.rounds == history.rounds
    assert loaded.replay(build()).count_params() == small.count_params()
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]


def test_another_model_is_refused():
    history = keras_prune.ShrinkHistory()
    remove(build(), 3, history)
    with pytest.raises(ValueError, match=r"expected the model that the history began with.*12.*got.*14"):
        history.replay(build(14))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 100_000, '{"version": 2, "rounds": []}', '{"version": 1, "rounds": [[["a", 3, [3]]]]}',
     '{"version": 1, "rounds": [[["a", 3, [-1]]]]}',
     '{"version": 1, "rounds": [[["a", true, []]]]}', '{"version": 1, "rounds": [[[1, 3, []]]]}'],
)  # fmt: skip
def test_damaged_files_are_refused(tmp_path, content):
    path = pathlib.Path(tmp_path / "history.json")
    path.write_text(content)
    with pytest.raises(ValueError, match=r"expected a file written by save\(\)"):
        keras_prune.ShrinkHistory.load(path)


def test_what_is_saved_is_json(tmp_path):
    history = keras_prune.ShrinkHistory()
    remove(build(), 3, history)
    history.save(tmp_path / "history.json")
    content = json.loads((tmp_path / "history.json").read_text())
    assert content["rounds"][0][0] == ["first+second", 12, [0, 1, 2]]


def test_names_that_keras_counts_up_are_the_same():
    def unnamed():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(10), keras.layers.Dense(2)])

    history = keras_prune.ShrinkHistory()
    small = remove(unnamed(), 4, history)
    assert history.replay(unnamed()).count_params() == small.count_params() == 44


def test_another_layer_of_the_same_size_is_refused():
    history = keras_prune.ShrinkHistory()
    remove(keras.Sequential([keras.Input((4,)), keras.layers.Dense(10, name="a"), keras.layers.Dense(2)]), 4, history)
    with pytest.raises(ValueError, match=r"the group \('a', 10\) at place 0, got \('b', 10\)"):
        history.replay(keras.Sequential([keras.Input((4,)), keras.layers.Dense(10, name="b"), keras.layers.Dense(2)]))


def test_units_that_must_stay_are_refused():
    def tied(to_output):
        x = keras.Input((6,))
        h = keras.layers.Dense(8, name="hidden")(x)
        out = keras.layers.Dense(3, name="out")(h)
        return keras.Model(x, [out, h] if to_output else out)

    history = keras_prune.ShrinkHistory()
    remove(tied(to_output=False), 3, history)
    with pytest.raises(ValueError, match=r"got 3 of 'hidden' in round 0, which must stay: the model's output; build"):
        history.replay(tied(to_output=True))
