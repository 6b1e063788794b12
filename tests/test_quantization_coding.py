"""Packed bytes of one weight under each scheme: what they decode to, and which is smallest."""

from __future__ import annotations

import numpy as np
import pytest

from keras_prune import Codebook, Int8, tensor_format
from keras_prune_export import coding

SCHEMES = [Codebook(3), Codebook(8), Codebook(4, optimum=True), Int8(), "float16", "lossless"]
SHAPES = [(6, 50), (4, 3, 3, 5), (1, 3, 3, 16), (40,)]


def weights(shape, *, density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) < density)).astype(np.float32)


def same_bits(one, other):
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_bytes_are_the_quantized_values(scheme, shape):
    values = weights(shape)
    packed, want = coding.pack(values, scheme), coding.quantized(values, scheme)
    assert same_bits(tensor_format.decode(packed).astype(np.float32).reshape(shape), want)
    assert (want[values == 0] == 0).all()
    assert same_bits(coding.quantized(want, scheme), want)
    if scheme == "lossless":
        assert same_bits(want, values)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_integers_keep_their_values(dtype):
    values = np.random.default_rng(0).integers(0, 100, (8, 3, 3, 4)).astype(dtype)
    packed = coding.pack(values, "lossless", fill=7)
    assert same_bits(tensor_format.decode(packed).reshape(values.shape), values)
    for scheme in (Codebook(4), Int8(), "float16"):
        with pytest.raises(TypeError, match=r"expected float weights for .* got u?int8"):
            coding.pack(values, scheme)


def test_lossless_finds_the_codebook_that_is_there():
    values = coding.quantized(weights((100, 80)), Codebook(4))
    assert len(coding.pack(values, "lossless")) == len(coding.pack(values, Codebook(4)))


@pytest.mark.parametrize("special", [-0.0, np.nan, np.inf])
def test_lossless_keeps_bits_that_no_codebook_has(special):
    values = np.array([[1, 0, 2], [0, special, 1]], np.float32)
    assert same_bits(tensor_format.decode(coding.pack(values, "lossless")).astype(np.float32), values)


def test_a_folded_scale_is_no_reason_for_new_values():
    values = coding.quantized(weights((64, 50)), Codebook(3))
    roundings = np.random.default_rng(1).integers(-2, 3, values.shape)
    scaled = (values * (1 + roundings * 2.0**-23)).astype(np.float32)
    assert len(np.unique(scaled)) > 8
    np.testing.assert_allclose(coding.quantized(scaled, Codebook(3)), values, rtol=1e-6)


def test_depthwise_weights_share_one_scale():
    packed = coding.pack(weights((1, 3, 3, 16)), Int8())
    assert (tensor_format.read_header(packed).rows, tensor_format.read_header(packed).table_bytes) == (1, 4)


@pytest.mark.parametrize("bad", [1e5, np.inf, np.nan])
def test_values_beyond_float16_are_refused(bad):
    with pytest.raises(ValueError, match="expected weights within float16's range"):
        coding.pack(np.array([[1, bad]], np.float32), "float16")
