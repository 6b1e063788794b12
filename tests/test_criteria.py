"""Criteria."""

from __future__ import annotations

import numpy as np
import pytest

from keras_prune import criteria
from keras_prune.criteria import Criterion, Magnitude


def test_magnitude_is_the_absolute_value():
    weights = np.array([[-2.0, 0.0], [-0.0, 1.5]], np.float32)
    scores = Magnitude()(weights)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[2.0, 0.0], [0.0, 1.5]]


def test_get():
    def square(weights):
        return weights**2

    assert criteria.get("magnitude") == Magnitude() == criteria.get(Magnitude) == criteria.get("Magnitude")
    assert criteria.get(square) is square
    assert Magnitude.from_config(Magnitude().get_config()) == Magnitude()
    with pytest.raises(ValueError, match="criterion: expected one of 'magnitude' or an object, got 'size'"):
        criteria.get("size")
    with pytest.raises(TypeError, match="a function weights -> scores, got 3"):
        criteria.get(3)


def test_base_says_what_to_define():
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Criterion()(np.ones(2))
