"""What the asset holds of a variable, and TensorFlow's operators that expand it: every bit comes back."""

from __future__ import annotations

import itertools
import zlib

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_prune.int8 import Int8
from keras_prune.kernel_axes import from_rows, to_rows
from keras_prune.quantization import Codebook
from keras_prune_export import expansion
from keras_prune_export.targets import saved_model as target

EXPANDERS: dict[target.Kind, object] = {}


def expand(stored, *, before=b"junk", after=b"more"):
    """Runs the stock operators on a variable that stands amid others."""
    function = EXPANDERS.setdefault(stored.kind, expansion.expander(stored.kind))
    numbers = [len(before), len(stored.data), stored.count, *stored.channels]
    content = tf.constant(before + stored.data + after)
    shape = tf.constant(stored.shape, tf.int32, shape=[len(stored.shape)])
    return function(content, tf.constant(numbers, tf.int64), shape).numpy()


def assert_same_bits(got, want):
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.tobytes() == want.tobytes()


def sparse(shape, density, dtype=np.float32, *, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) < density)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("density", [0.0, 0.002, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("scheme", ["lossless", Codebook(4)], ids=str)
def test_every_candidate_expands_to_the_same_bits(dtype, density, scheme):
    weights = target.quantize(sparse((37, 51), density, dtype), scheme)
    options = target.candidates(weights)
    assert options
    for stored in options:
        assert_same_bits(expand(stored), weights.values)


def test_all_ways_to_store_are_tried():
    options = target.candidates(target.quantize(sparse((40, 40), 0.4), Codebook(4)))
    kinds = {(stored.kind.positions, stored.kind.values) for stored in options}
    assert kinds == set(itertools.product(("all", "gaps", "bitmap"), ("codes", "exact")))


def test_lossless_keeps_minus_zero_subnormal_numbers_and_nan_payloads():
    bits = np.zeros(600, np.uint32)
    bits[[3, 4, 300, 599]] = [0x80000000, 0x00000001, 0x7FC12345, 0xFF800000]
    weights = target.quantize(bits.view(np.float32), "lossless")
    for stored in target.candidates(weights):
        np.testing.assert_array_equal(expand(stored).view(np.uint32), bits)


@pytest.mark.parametrize("where", [[0], [255], [256], [257], [511, 512], [0, 1, 2, 1023], [1023]])
def test_gaps_beyond_a_byte_get_fillers(where):
    values = np.zeros(1024, np.float32)
    values[where] = np.arange(1, len(where) + 1)
    options = target.candidates(target.quantize(values, "lossless"))
    (stored,) = (option for option in options if option.kind.positions == "gaps" and option.kind.values == "codes")
    fillers = sum((b - a - 1) // 256 for a, b in itertools.pairwise([-1, *where]))
    assert stored.count == len(where) + fillers
    assert_same_bits(expand(stored), values)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((30, 20), -1),
        ((3, 3, 4, 6), -1),
        ((3, 3, 6, 4), -2),
        ((3, 3, 5, 2), (-2, -1)),
        ((6, 4, 5), (0, 2)),
        ((7, 9), 0),
    ],
)
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_int8_has_a_scale_for_each_output(shape, axes, density):
    values = sparse(shape, density)
    codes, scales = Int8().fit(to_rows(values, axes))
    want = from_rows(codes.astype(np.float32) * scales[:, None], shape, axes)
    for stored in target.candidates(target.quantize(values, Int8(), axes)):
        assert stored.kind.values == "scaled"
        assert_same_bits(expand(stored), np.ascontiguousarray(want) + np.float32(0))


def test_float16_is_stored_in_half_the_bytes():
    values = sparse((64, 64), 1.0)
    weights = target.quantize(values, "float16")
    np.testing.assert_array_equal(weights.values, values.astype(np.float16).astype(np.float32))
    for stored in target.candidates(weights):
        assert len(stored.data) <= 2 * values.size + 100
        assert_same_bits(expand(stored), weights.values)
    with pytest.raises(ValueError, match="does not fit in float16"):
        target.quantize(values * np.float32(1e6), "float16")


@pytest.mark.parametrize(
    "values",
    [
        np.array(7, np.int64),
        np.arange(-4, 4, dtype=np.int8),
        np.array([True, False, True]),
        np.array([[1, 2**32 - 1]], np.uint32),
        np.zeros((0, 3), np.float32),
        np.array([], np.float32),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_variables_of_other_types_and_shapes(values):
    for stored in [target.exact(target.quantize(values, "lossless"))]:
        assert_same_bits(expand(stored), values)
    for stored in target.candidates(target.quantize(values, "lossless")):
        assert_same_bits(expand(stored), values)


def test_what_the_graph_cannot_index_is_refused():
    huge = np.broadcast_to(np.float32(0), (2**16, 2**15))
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 weights"):
        target.candidates(target.Weights(huge, "float32"))


@pytest.mark.parametrize("sections", [[], [b""], [b"a"], [b"", b"ab" * 50, b""], [bytes(1000), bytes(range(256)) * 9]])
def test_sections_deflated_apart_are_one_zlib_stream(sections):
    assert zlib.decompress(target.deflate(sections)) == b"".join(sections)


def test_few_kinds_are_chosen_where_that_makes_the_whole_smaller():
    small = [target.candidates(target.quantize(sparse((30, 30), d, seed=7), Codebook(4))) for d in (0.1, 0.4, 0.9)]
    assert len({stored.kind for stored in target.choose(small)}) == 1
    dense = target.candidates(target.quantize(sparse((100, 100), 1.0), "lossless"))
    large = target.candidates(target.quantize(sparse((200, 200), 0.1), Codebook(4)))
    assert {stored.kind.positions for stored in target.choose([large, dense])} == {"gaps", "all"}
    assert target.choose([]) == []


def test_codes_and_gaps_are_near_their_entropy():
    values = sparse((500, 400), 0.08)
    stored = min(target.candidates(target.quantize(values, Codebook(4))), key=lambda option: len(option.data))
    codes, _ = Codebook(4).fit(values)
    counts = np.bincount(codes[codes != 0])
    shares = counts[counts > 0] / counts.sum()
    density = np.count_nonzero(codes) / codes.size
    positions = -codes.size * (density * np.log2(density) + (1 - density) * np.log2(1 - density))
    bound = (positions - counts.sum() * (shares * np.log2(shares)).sum()) / 8
    assert len(stored.data) < 1.04 * bound + 100  # Huffman codes have whole bits; their tables and the 15 values
