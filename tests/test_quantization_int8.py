"""Int8 weights: golden literals and properties on hostile weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_prune import Int8

FLOATS = st.one_of(
    st.floats(-3, 3, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),  # huge and denormal ones too
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3.4028234e38, -3.4028234e38]),
)
WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=FLOATS)


@given(WEIGHTS)
def test_weights_are_within_half_a_step_and_fit_themselves(weights):
    codes, scales = Int8().fit(weights)
    assert (codes.dtype, codes.shape) == (np.int8, weights.shape)
    assert (scales.dtype, scales.shape) == (np.float32, weights.shape[:1])
    assert (scales > 0).all()
    assert codes.min() >= -127
    values = codes * scales[:, None]
    assert np.isfinite(values).all()
    assert (values[weights == 0] == 0).all()
    # Half a step, and 127 roundings of a scale to float32 (2^-24 each).
    assert (np.abs(values.astype(np.float64) - weights) <= (0.5 + 127 * 2.0**-23) * scales[:, None]).all()
    again_codes, again_scales = Int8().fit(values)
    np.testing.assert_array_equal(again_codes, codes)
    np.testing.assert_array_equal(again_scales[codes.any(axis=1)], scales[codes.any(axis=1)])


def test_golden():
    codes, scales = Int8().fit(np.array([[0, 127, -3.4], [0, 0, 0], [-0.0, -254, 5]], np.float32))
    assert codes.tolist() == [[0, 127, -3], [0, 0, 0], [0, -127, 2]]
    assert scales.tolist() == [1, 1, 2]


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_only_a_matrix_has_outputs(shape):
    with pytest.raises(ValueError, match=r"expected a matrix \(outputs, inputs\), got shape"):
        Int8().fit(np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite weights"):
        Int8().fit(np.array([[1, bad]]))


def test_keras_serializes_it():
    config = keras.saving.serialize_keras_object(Int8())
    assert keras.saving.deserialize_keras_object(config) == Int8()
