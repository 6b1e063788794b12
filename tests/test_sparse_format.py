"""The storage format: golden bytes shared with the C++ tests, round trips, and everything that must be refused."""

from __future__ import annotations

import pathlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_bytes import REFUSED, TINY, changed, refused_bytes  # type: ignore[import-not-found]

from keras_prune import sparse_format

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
MANIFEST = [line.split() for line in (GOLDEN / "manifest.txt").read_text().splitlines()]
LIMITS = [line.split() for line in (GOLDEN / "limits.txt").read_text().splitlines()]


def codebook_of(size: int) -> np.ndarray:
    return np.concatenate([[0], np.arange(1, size) - size / 2 - 0.25]).astype(np.float32)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Hostile shapes and densities: one row, one column, nothing kept, everything kept, few survivors."""
    rows, cols = draw(st.sampled_from([(1, 1), (1, 700), (700, 1), (3, 257), (16, 16), (17, 33), (2, 1030)]))
    size = draw(st.sampled_from([2, 3, 4, 5, 16, 17, 128, 255, 256]))
    density = draw(st.sampled_from([0.0, 1.0, 0.003, 0.05, 0.3, 0.97]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(1, size, (rows, cols)) * (rng.random((rows, cols)) < density)
    for position in draw(st.lists(st.integers(0, rows * cols - 1), max_size=3)):
        codes.reshape(-1)[position] = draw(st.integers(0, size - 1))
    return codes.astype(np.uint8), codebook_of(size)


@given(matrix=matrices(), gap_bits=st.sampled_from([None, 4, 5, 6, 7, 8]))
@settings(max_examples=150, deadline=None)
def test_round_trip(matrix, gap_bits):
    codes, codebook = matrix
    packed = sparse_format.encode(codes, codebook, gap_bits=gap_bits)
    got_codes, got_codebook = sparse_format.decode(packed)
    np.testing.assert_array_equal(got_codes, codes)
    np.testing.assert_array_equal(got_codebook, codebook)
    np.testing.assert_array_equal(sparse_format.to_dense(packed), codebook[codes])
    header = sparse_format.read_header(packed)
    assert (header.rows, header.cols) == codes.shape
    assert header.num_kept == np.count_nonzero(codes)
    assert header.num_bytes == len(packed)
    assert gap_bits in (None, header.gap_bits)


@given(matrix=matrices())
@settings(max_examples=50, deadline=None)
def test_the_best_gap_width_is_the_smallest_buffer(matrix):
    codes, codebook = matrix
    sizes = {bits: len(sparse_format.encode(codes, codebook, gap_bits=bits)) for bits in sparse_format.GAP_BITS}
    packed = sparse_format.encode(codes, codebook)
    assert len(packed) == min(sizes.values())
    assert sparse_format.read_header(packed).gap_bits == min(sizes, key=lambda bits: (sizes[bits], bits))


@given(first=st.integers(0, 600), second=st.integers(0, 600), gap_bits=st.sampled_from([4, 5, 6, 7, 8]))
@settings(max_examples=100, deadline=None)
def test_entries_are_the_fewest(first, second, gap_bits):
    codes = np.zeros((1, first + second + 2), np.uint8)
    codes[0, [first, first + second + 1]] = 1
    header = sparse_format.read_header(sparse_format.encode(codes, codebook_of(2), gap_bits=gap_bits))
    assert header.num_entries == 2 + first // 2**gap_bits + second // 2**gap_bits


def test_tiny_bytes_are_as_documented():
    codes = np.array([[0, 1, 0], [0, 0, 2]], np.uint8)
    assert sparse_format.encode(codes, np.array([0, 0.125, -0.25])) == TINY
    assert (GOLDEN / "tiny.packed").read_bytes() == TINY


@pytest.mark.parametrize("line", MANIFEST, ids=lambda line: line[0])
def test_golden(line):
    name, *counts = line
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    header = sparse_format.read_header(packed)
    names = ["rows", "cols", "gap_bits", "code_bits", "num_entries", "num_kept"]
    assert [getattr(header, field) for field in names] == [int(count) for count in counts]
    dense = np.fromfile(GOLDEN / f"{name}.dense", "<f4").reshape(header.rows, header.cols)
    np.testing.assert_array_equal(sparse_format.to_dense(packed), dense)
    codes, codebook = sparse_format.decode(packed)
    assert sparse_format.encode(codes, codebook, gap_bits=header.gap_bits) == packed


def test_gaps_at_the_limit_and_one_past():
    # 4 bits: a gap of 15 zeros fits one entry; 16 zeros are a filler (15 zeros, then its own stored zero) and gap 0.
    at_limit = (GOLDEN / "gap_at_the_limit.packed").read_bytes()
    one_past = (GOLDEN / "gap_one_past.packed").read_bytes()
    assert at_limit[-2:] == bytes([0xFF, 0b1001])
    assert one_past[-3:] == bytes([0x0F, 0x0F, 0b10_00_01_00])


@pytest.mark.parametrize("name", ["tiny", "gap_one_past", "all_pruned", "codebook_256"])
def test_every_truncation_is_refused(name):
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    for length in range(len(packed)):
        with pytest.raises(sparse_format.FormatError):
            sparse_format.decode(packed[:length])
    with pytest.raises(sparse_format.FormatError):
        sparse_format.decode(packed + b"\0")


@pytest.mark.parametrize("name", ["tiny", "gap_one_past", "all_pruned", "codebook_256"])
def test_every_bit_flip_is_refused(name):
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(sparse_format.FormatError):
            sparse_format.decode(bytes(flipped))


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("read", [sparse_format.decode, sparse_format.check])
def test_refuses_with_a_right_checksum(what, read):
    with pytest.raises(sparse_format.FormatError, match=REFUSED[what][2]):
        read(refused_bytes(what))


@pytest.mark.parametrize("line", LIMITS, ids=lambda line: line[0])
def test_limits_of_rows_and_columns(line):
    name, verdict = line
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    assert len(packed) == 36
    if verdict == "refused":
        with pytest.raises(sparse_format.FormatError, match="sizes that contradict each other"):
            sparse_format.check(packed)
        return
    header = sparse_format.check(packed)  # without memory for the two thousand million weights
    assert 2**31 - 1 in (header.rows, header.cols)
    assert header.num_kept == 0


@given(
    rows=st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 16])),
    cols=st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1])),
)
@settings(max_examples=200, deadline=None)
def test_sizes_within_the_limits_are_allowed_and_others_refused(rows, cols):
    header = sparse_format.HEADER.pack(b"KPRI", 1, 4, 2, 0, rows, cols, 0, 0, 1, 36, 0)
    packed = changed(header, 0, b"")
    if 1 <= rows < 2**31 and 1 <= cols < 2**31 and rows * cols < 2**32:
        assert (sparse_format.check(packed).rows, sparse_format.check(packed).cols) == (rows, cols)
    else:
        with pytest.raises(sparse_format.FormatError, match="sizes"):
            sparse_format.check(packed)


def test_refuses_fillers_out_of_place():
    small_gap = changed(changed((GOLDEN / "gap_one_past.packed").read_bytes(), 44, b"\x0e"), 20, struct.pack("<I", 2))
    with pytest.raises(sparse_format.FormatError, match="largest gap"):
        sparse_format.decode(small_gap)
    at_the_end = changed(changed(changed(TINY, 45, b"\x01"), 44, b"\x01"), 20, struct.pack("<I", 1))
    at_the_end = changed(changed(at_the_end, 44, b"\xf1"), 8, struct.pack("<I", 20))
    with pytest.raises(sparse_format.FormatError, match="last entry is a filler"):
        sparse_format.decode(at_the_end)


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data):
    for candidate in (data, b"KPRI\1" + data):
        with pytest.raises(sparse_format.FormatError):
            sparse_format.decode(candidate)


@pytest.mark.parametrize(
    ("codes", "codebook", "message"),
    [
        (np.zeros((2, 2), np.int64), [0, 1], "uint8 array of shape"),
        (np.zeros(4, np.uint8), [0, 1], "uint8 array of shape"),
        (np.zeros((0, 4), np.uint8), [0, 1], "uint8 array of shape"),
        (np.zeros((2, 2), np.uint8), [], "1 to 256 values"),
        (np.zeros((2, 2), np.uint8), np.zeros(257), "1 to 256 values"),
        (np.zeros((2, 2), np.uint8), [[0, 1]], "one dimension"),
        (np.zeros((2, 2), np.uint8), [0, np.nan], "finite"),
        (np.zeros((2, 2), np.uint8), [1, 2], "0.0 for code 0"),
        (np.full((2, 2), 2, np.uint8), [0, 1], "below the codebook's size 2"),
    ],
)
def test_the_encoder_checks_its_input(codes, codebook, message):
    with pytest.raises(ValueError, match=message):
        sparse_format.encode(codes, np.asarray(codebook, np.float32))


def test_the_encoder_checks_the_gap_width():
    with pytest.raises(ValueError, match="4 to 8, got 9"):
        sparse_format.encode(np.zeros((1, 1), np.uint8), np.zeros(1), gap_bits=9)


@pytest.mark.parametrize(
    "same",
    [
        np.frombuffer(TINY, np.uint8),
        bytearray(TINY),
        memoryview(TINY),
        np.repeat(np.frombuffer(TINY, np.uint8), 2)[::2],
        memoryview(np.repeat(np.frombuffer(TINY, np.uint8), 2).tobytes())[::2],
    ],
    ids=["array", "bytearray", "memoryview", "strided array", "strided memoryview"],
)
def test_what_holds_bytes_is_a_buffer(same):
    np.testing.assert_array_equal(sparse_format.to_dense(same), sparse_format.to_dense(TINY))
    assert sparse_format.read_header(same) == sparse_format.check(same) == sparse_format.read_header(TINY)


READERS = [sparse_format.read_header, sparse_format.check, sparse_format.decode, sparse_format.to_dense]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "other",
    [
        np.frombuffer(TINY, np.int8),
        np.frombuffer(TINY, np.uint8)[None],
        np.frombuffer(TINY, np.uint8).astype(np.float32),
        np.frombuffer(TINY[:44], np.uint32),
        np.array(3, np.uint8),
        memoryview(TINY[:44]).cast("I"),
        memoryview(TINY).cast("b"),
    ],
    ids=["int8", "rank 2", "float32", "uint32", "scalar", "memoryview of words", "memoryview of int8"],
)
def test_other_arrays_are_refused(read, other):
    with pytest.raises(sparse_format.FormatError, match=r"expected shape \(num_bytes,\) and type uint8"):
        read(other)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("other", [10**8, "KPRI", None, [75, 80, 82, 73], np.uint8(4)], ids=repr)
def test_what_is_not_bytes_is_a_type_error(read, other):
    with pytest.raises(TypeError, match="expected bytes or a uint8 array, got"):
        read(other)
