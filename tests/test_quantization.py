"""Codebooks: golden literals and properties on hostile weights."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_prune import Codebook

FLOATS = st.one_of(
    st.floats(-3, 3, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),  # huge and denormal ones too
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38]),
)
WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2, max_side=12), elements=FLOATS)
BITS = st.integers(2, 8)


def quantized(weights, bits):
    codes, codebook = Codebook(bits).fit(weights)
    return codebook[codes]


def ramp(count, first=1.0, last=2.0):
    return np.linspace(first, last, count, dtype=np.float32)


@given(WEIGHTS, BITS)
def test_shapes_types_and_order(weights, bits):
    codes, codebook = Codebook(bits).fit(weights)
    assert (codes.dtype, codes.shape) == (np.uint8, weights.shape)
    assert codebook.dtype == np.float32
    assert 1 <= len(codebook) <= 1 << bits
    assert codes.max() < len(codebook)
    assert codebook[0] == 0
    assert not np.signbit(codebook[0])
    assert np.isfinite(codebook).all()
    assert (codebook[1:] != 0).all()
    assert (codebook[2:] > codebook[1:-1]).all()


@given(WEIGHTS, BITS)
def test_zeros_stay_exactly_zero(weights, bits):
    codes, _ = Codebook(bits).fit(weights)
    assert (codes[weights == 0] == 0).all()


@given(WEIGHTS, BITS)
def test_few_values_are_kept_exactly(weights, bits):
    if len(np.unique(weights[weights != 0])) < 1 << bits:
        assert (quantized(weights, bits) == weights).all()


@given(WEIGHTS, BITS)
def test_idempotent(weights, bits):
    once = quantized(weights, bits)
    assert (quantized(once, bits) == once).all()


@given(WEIGHTS, BITS, st.randoms(use_true_random=False))
def test_order_does_not_matter(weights, bits, random):
    order = list(range(weights.size))
    random.shuffle(order)
    codes, codebook = Codebook(bits).fit(weights)
    other_codes, other_codebook = Codebook(bits).fit(weights.reshape(-1)[order])
    assert codebook.tolist() == other_codebook.tolist()
    assert (codes.reshape(-1)[order] == other_codes).all()


@given(WEIGHTS, BITS)
def test_each_weight_gets_the_nearest_value(weights, bits):
    codes, codebook = Codebook(bits).fit(weights)
    distances = np.abs(weights.astype(np.float64)[..., None] - codebook.astype(np.float64)[1:])
    values = codebook.astype(np.float64)[codes]
    kept = codes != 0
    assert (np.abs(values - weights)[kept] <= distances[kept].min(axis=-1, initial=np.inf)).all()


@given(WEIGHTS, BITS)
def test_values_stay_within_the_weights_range(weights, bits):
    values = quantized(weights, bits)
    assert values.min() >= min(weights.min(), 0)
    assert values.max() <= max(weights.max(), 0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("sign", [1, -1])
def test_one_sided_values_use_the_whole_codebook(bits, sign):
    weights = sign * ramp(4096)
    codes, codebook = Codebook(bits).fit(weights)
    assert len(codebook) == 1 << bits
    assert codes.min() == 1
    assert np.abs(codebook[codes] - weights).max() <= 0.51 / ((1 << bits) - 1)  # an even ramp: half a step


def test_kmeans_finds_clusters():
    rng = np.random.default_rng(0)
    centers = np.array([-2.0, 0.5, 3.0], np.float32)
    weights = np.concatenate([center + rng.uniform(-0.1, 0.1, 500).astype(np.float32) for center in centers])
    _, codebook = Codebook(2).fit(weights)
    means = weights.reshape(3, 500).mean(axis=1, dtype=np.float64).astype(np.float32)
    assert codebook.tolist() == [0.0, *means.tolist()]


@pytest.mark.parametrize(
    ("weights", "codes", "codebook"),
    [
        ([0.0, 1.0, 1.25, -3.0], [0, 2, 3, 1], [0.0, -3.0, 1.0, 1.25]),
        ([0.0, 0.0], [0, 0], [0.0]),
        ([-0.0, 5.0], [0, 1], [0.0, 5.0]),
        ([0.5] * 9, [1] * 9, [0.0, 0.5]),
        ([1.0, 2.0, 9.0, 10.0], [1, 1, 2, 2], [0.0, 1.5, 9.5]),  # of three linear centroids one stays empty
    ],
)
def test_golden(weights, codes, codebook):
    got_codes, got_codebook = Codebook(2).fit(np.array(weights, np.float32))
    assert (got_codes.tolist(), got_codebook.tolist()) == (codes, codebook)


def test_an_outlier_does_not_take_the_small_weights_along():
    small = ramp(40, 1e-3, 2e-3)
    weights = np.concatenate([small, np.array([-1e30], np.float32)])  # sums over both would lose the small ones
    values = quantized(weights, 2)
    assert np.abs(values[:40] - small).max() <= 1e-3
    assert values[40] == np.float32(-1e30)


def test_weights_around_a_zero_centroid_become_zero_not_far_values():
    # The middle cluster is symmetric: its mean is exactly zero.
    weights = np.array([-100, -99, -0.001, 0.001, 99, 100], np.float32)
    codes, codebook = Codebook(2).fit(weights)
    assert codes[2:4].tolist() == [0, 0]
    assert codebook.tolist() == [0.0, -99.5, 99.5]


def test_transposed_weights_get_the_same_codebook():
    weights = np.random.default_rng(1).normal(size=(40, 30)).astype(np.float32)
    codes, codebook = Codebook(4).fit(weights)
    codes_transposed, codebook_transposed = Codebook(4).fit(weights.T)
    assert (codebook == codebook_transposed).all()
    assert (codes_transposed == codes.T).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite weights, got NaN or infinity; look for diverged training"):
        Codebook(4).fit(np.array([1.0, bad]))


@pytest.mark.parametrize("bits", [1, 9, 4.0, "4", None, True, np.True_])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match="expected bits from 2 to 8, got"):
        Codebook(bits)


def test_numpy_integers_are_bits():
    codebook = Codebook(np.int64(4))
    assert codebook == Codebook(4)
    assert type(codebook.bits) is int


def test_centroids_start_evenly_over_the_range():
    # 90 small weights and 10 large ones. Linear start: 1/6, 3/6 and 5/6 of the range; two of three centroids end among
    # the few large weights. A start by quantiles puts two among the many small ones.
    weights = np.concatenate([np.linspace(1, 2, 90), np.linspace(8, 8.5, 5), np.linspace(11.5, 12, 5)])
    _, codebook = Codebook(2).fit(weights)
    assert codebook.tolist() == [0.0, 1.5, 8.25, 11.75]


SCRIPT = """
import keras, keras_prune
made = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(keras_prune.Codebook(bits=5)))
assert made == keras_prune.Codebook(5)
print("same")
"""


LATE_KERAS = """
from keras_prune import Codebook
from keras_prune.int8 import Int8
import keras
for value in (Codebook(bits=5), Int8()):
    config = keras.saving.serialize_keras_object(value)
    assert config["registered_name"] == "keras_prune>" + type(value).__name__, config
    assert keras.saving.deserialize_keras_object(config) == value
print("same")
"""


@pytest.mark.parametrize("script", [SCRIPT, LATE_KERAS])
def test_keras_serializes_it(script):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == "same\n", result.stderr


def test_keras_is_not_imported_for_it():
    command = [sys.executable, "-c", "import sys, keras_prune.quantization; print('keras' in sys.modules)"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_config_round_trip():
    assert Codebook.from_config(Codebook(bits=5).get_config()) == Codebook(5)
