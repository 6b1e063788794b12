"""Patterns."""

from __future__ import annotations

import numpy as np
import pytest

from keras_prune import patterns
from keras_prune.patterns import Pattern, Unstructured


def test_unstructured_units_are_weights():
    scores = np.arange(6.0).reshape(2, 3)
    pattern = Unstructured()
    assert pattern.pool(scores).tolist() == [0, 1, 2, 3, 4, 5]
    assert pattern.spread(np.array([1, 0, 0, 1, 0, 0], np.uint8), (2, 3)).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_get():
    assert patterns.get("unstructured") == Unstructured() == patterns.get(Unstructured)
    assert Unstructured.from_config(Unstructured().get_config()) == Unstructured()
    with pytest.raises(ValueError, match="pattern: expected one of 'unstructured' or an object, got '2:4'"):
        patterns.get("2:4")
    with pytest.raises(TypeError, match="pattern: expected a keras_prune pattern"):
        patterns.get((4, 1))


def test_base_says_what_to_define():
    with pytest.raises(NotImplementedError, match="must define pool"):
        Pattern().pool(np.ones(2))
    with pytest.raises(NotImplementedError, match="must define spread"):
        Pattern().spread(np.ones(2), (2,))
