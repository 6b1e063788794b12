"""Int8 activations in the delegate: bit for bit what NumPy computes, and as close to float32 as promised."""

from __future__ import annotations

import numpy as np
import pytest
from packed_models import (  # type: ignore[import-not-found]
    ACTIVATIONS,
    dense_result,
    load,
    one_layer,
    random_codes,
    run,
    supported_isas,
)

from keras_prune import int8_activations, sparse_format, tensor_format
from keras_prune_export.targets.fully_connected import Options

ISAS = ("reference", "scalar", "avx2", "avx512")
SHAPES = [((300, 784), 0.08, 16), ((10, 100), 0.3, 256), ((1, 7), 1, 4), ((17, 33), 0, 2), ((5, 70_000), 0.02, 8)]


@pytest.fixture(scope="module")
def layer():
    return random_codes((30, 100), 0.1, 16)


def outputs(codes, codebook, x, *, bias=None, options=None, isa=None):
    """What the delegate computes."""
    options = (options or Options(activations="int8")).to_bytes()
    model = one_layer(sparse_format.encode(codes, codebook), bias, x.shape, options=options)
    return run(load(model, plugin_options=isa and {"isa": isa}), x)


def expected(codes, codebook, x, *, bias=None, options=None):
    options = options or Options(activations="int8")
    y = int8_activations.fully_connected(x, codes, codebook, bias=bias, scale=options.x_scale)
    return np.clip(y, *np.array(ACTIVATIONS[options.activation], np.float32))


def assert_same_bits(got, want):
    assert got.dtype == want.dtype == np.float32
    np.testing.assert_array_equal(got, want)  # zeros of either sign are equal, and NaN is NaN


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "density", "size"), SHAPES)
@pytest.mark.parametrize("scale", [None, 0.013])
def test_bits_are_those_of_numpy(isa, *, shape, density, size, scale):
    if isa not in supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    codes, codebook = random_codes(shape, density, size)
    rng = np.random.default_rng(1)
    bias, options = rng.standard_normal(shape[0]).astype(np.float32), Options(activations="int8", x_scale=scale)
    for batch in (1, 3, 17, 70):
        x = rng.standard_normal((batch, shape[1])).astype(np.float32)  # with 0.013 the largest are clipped
        got = outputs(codes, codebook, x, bias=bias, options=options, isa=isa)
        assert_same_bits(got, expected(codes, codebook, x, bias=bias, options=options))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_fused_activations(layer, activation):
    x = np.random.default_rng(2).standard_normal((4, 100)).astype(np.float32) * 3
    for scale in (None, 0.05):
        options = Options(activation, activations="int8", x_scale=scale)
        assert_same_bits(outputs(*layer, x, options=options), expected(*layer, x, options=options))


def test_version_2_gives_the_same_bits_as_version_1(layer):
    codes, codebook = layer
    x = np.random.default_rng(2).standard_normal((3, 100)).astype(np.float32)
    for options in (Options(activations="int8"), Options(activations="int8", x_scale=0.02)):
        packed = tensor_format.encode_codes(codes, codebook)
        got = run(load(one_layer(packed, None, x.shape, options=options.to_bytes())), x)
        assert_same_bits(got, outputs(codes, codebook, x, options=options))


def test_halves_round_away_from_zero():
    codes, codebook = np.eye(6, dtype=np.uint8), np.array([0, 127], np.float32)
    x = np.array([[0.5, 1.5, -0.5, -2.5, 127, 0.49]], np.float32)  # the largest makes one step 1
    want = [[1 * 127, 2 * 127, -1 * 127, -3 * 127, 127 * 127, 0]]
    assert_same_bits(outputs(codes, codebook, x), np.array(want, np.float32))


def test_values_beyond_a_calibrated_range_are_clipped(layer):
    codes, codebook = layer
    options = Options(activations="int8", x_scale=0.01)
    x = np.random.default_rng(2).standard_normal((4, 100)).astype(np.float32)
    clipped = np.clip(x, np.float32(-1.27), np.float32(1.27))
    got = outputs(codes, codebook, x, options=options)
    assert_same_bits(got, outputs(codes, codebook, clipped, options=options))
    assert np.abs(got - outputs(codes, codebook, x)).max() > 0.1


def test_rows_do_not_depend_on_each_other(layer):
    x = np.random.default_rng(2).standard_normal((5, 100)).astype(np.float32)
    x[1], x[2] = 0, x[2] * 1000
    got = outputs(*layer, x)
    for row in range(5):
        assert_same_bits(got[row : row + 1], outputs(*layer, x[row : row + 1]))
    assert not got[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [None, 0.02])
def test_a_row_that_is_not_finite_gives_nan(layer, value, scale):
    options = Options(activations="int8", x_scale=scale)
    x = np.random.default_rng(2).standard_normal((3, 100)).astype(np.float32)
    x[1, 7] = value
    got = outputs(*layer, x, bias=np.ones(30, np.float32), options=options)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("factor", [1e-44, 1e-38, 1e-30, 1e30, 3e38])
def test_the_smallest_and_the_largest_numbers(layer, factor):
    codes, codebook = layer
    rows = np.random.default_rng(2).uniform(-1, 1, (3, 100))
    x = (rows * factor).astype(np.float32)
    assert_same_bits(outputs(codes, codebook, x), expected(codes, codebook, x))


@pytest.mark.parametrize(
    ("shape", "density", "size"), [((300, 784), 0.08, 16), ((50, 300), 0.3, 256), ((8, 25088), 0.04, 16)]
)
@pytest.mark.parametrize("is_static", [False, True])
def test_errors_are_within_the_bound(shape, density, *, size, is_static):
    codes, codebook = random_codes(shape, density, size)
    x = np.random.default_rng(1).standard_normal((20, shape[1])).astype(np.float32)
    scale = float(np.abs(x).max() / np.float32(127)) if is_static else None
    error = outputs(codes, codebook, x, options=Options(activations="int8", x_scale=scale)) - dense_result(
        codes, codebook, x
    )
    bound = int8_activations.error_bound(x, codes, codebook, scale=scale)
    # Four roundings to float32 of the sum and of its two factors
    rounding = 2.0**-22 * (np.abs(x).astype(np.float64) @ np.abs(codebook[codes]).T)
    assert (np.abs(error) <= bound + rounding).all()
    # Errors of single products have either sign, so that sums of hundreds stay far below; but they are there.
    assert 1e-4 < np.sqrt(np.mean(np.square(error)) / np.mean(np.square(dense_result(codes, codebook, x)))) < 0.03
