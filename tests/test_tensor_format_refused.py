"""Version 2 of the storage format: what must be refused, whatever the bytes say."""

from __future__ import annotations

import contextlib
import pathlib
import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_bytes import seal  # type: ignore[import-not-found]
from tensor_bytes import (  # type: ignore[import-not-found]
    REFUSED,
    TINY,
    TINY_RANS,
    fixed,
    rans,
    tensor,
)

from keras_prune import tensor_format
from keras_prune.tensor_format import FormatError, Layout

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
MANIFEST = [line.split() for line in (GOLDEN / "tensor_manifest.txt").read_text().splitlines()]
POSITIONS, VALUES = ("all", "gaps", "bitmap"), ("codebook", "scaled", "split")
ELEMENTS = ("float32", "float16", "int8", "uint8")


SMALL = {name: (GOLDEN / f"{name}.packed").read_bytes() for name, *_ in MANIFEST}
SMALL = {name: packed for name, packed in SMALL.items() if len(packed) < 120} | {"tiny_rans": TINY_RANS}


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("read", [tensor_format.decode, tensor_format.check])
def test_every_truncation_and_bit_flip_is_refused(name, read):
    packed = SMALL[name]
    for length in range(len(packed)):
        with pytest.raises(FormatError):
            read(packed[:length])
    with pytest.raises(FormatError):
        read(packed + b"\0")
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            read(bytes(flipped))


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("read", [tensor_format.decode, tensor_format.check])
def test_refuses_with_a_right_checksum(what, read):
    packed, message = REFUSED[what]
    assert seal(packed) == packed
    with pytest.raises(FormatError, match=message):
        read(packed)


@given(
    name=st.sampled_from([name for name, *_ in MANIFEST]),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
@settings(max_examples=300, deadline=None)
def test_changed_buffers_with_a_right_checksum_are_refused_or_decoded(name, changes, cut):
    packed = bytearray((GOLDEN / f"{name}.packed").read_bytes())
    size = struct.unpack_from("<II", packed, 8)
    for at, value in changes:
        packed[at % len(packed)] = value
    if cut > 36:
        del packed[-(cut - 36) :]
        packed[28:32] = struct.pack("<I", len(packed))
    packed = seal(bytes(packed))
    rows, cols = struct.unpack_from("<II", packed, 8)
    if rows * cols > 4 * size[0] * size[1]:  # so much memory is the claim of the matrix: its reader compares it first
        with contextlib.suppress(FormatError):
            tensor_format.read_header(packed)
        return
    try:
        values = tensor_format.decode(packed)
    except FormatError:
        with pytest.raises(FormatError):
            tensor_format.check(packed)
        return
    assert values.shape == (rows, cols)
    tensor_format.check(packed)


@pytest.mark.parametrize("kinds", ["gaps", "bitmap", "all"])
def test_memory_of_a_check_follows_the_buffer(kinds):
    # Many weights in a few bytes, all of which the streams really hold.
    units = 2**24
    constant = "00 808001"
    body = {
        "gaps": rans(units, constant, [65536]) + rans(units, constant, [65536]),
        "bitmap": rans(units // 8, "ff" + 255 * "00" + "808001", [65536]) + fixed(0, units, ""),
        "all": fixed(0, units, ""),
    }[kinds]
    fields = {"rows": 2**12, "cols": 2**12, "num_units": units, "escape": 7 * (kinds == "gaps"), "codebook_size": 1}
    packed = tensor(f"{kinds} codebook float32", body, **fields)
    tracemalloc.start()
    header = tensor_format.check(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.num_values == units
    assert peak < 2**26  # chunks of 2^20 symbols and their positions; 16 M weights would need 64 MB and more


def test_a_huge_claim_costs_nothing_to_read():
    fields = {"rows": 2**31 - 1, "cols": 2, "num_units": 0, "codebook_size": 1}
    packed = tensor("gaps codebook float32", 2 * fixed(0, 0, ""), **fields)
    assert tensor_format.check(packed).rows == 2**31 - 1


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data):
    for candidate in (data, b"KPRI\2" + data):
        with pytest.raises(FormatError):
            tensor_format.decode(candidate)


def test_as_matrix_shape():
    assert tensor_format.as_matrix_shape(()) == (1, 1)
    assert tensor_format.as_matrix_shape((7,)) == (1, 7)
    assert tensor_format.as_matrix_shape((7, 3)) == (7, 3)
    assert tensor_format.as_matrix_shape((1, 3, 3, 8)) == (1, 72)
    assert tensor_format.as_matrix_shape(np.array([16, 3, 3, 8])) == (16, 72)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.int64), np.zeros(1)), "codes: expected a non-empty"),
        (lambda: tensor_format.encode_codes(np.zeros(4, np.uint8), np.zeros(1)), "codes: expected a non-empty"),
        (lambda: tensor_format.encode_codes(np.zeros((0, 4), np.uint8), np.zeros(1)), "codes: expected a non-empty"),
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.uint8), np.zeros(257)), "1 to 256 values"),
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.uint8), np.zeros((1, 2))), "one dimension"),
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.uint8), np.array([0, np.inf])), "finite"),
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.uint8), np.ones(2)), "0.0 for code 0"),
        (lambda: tensor_format.encode_codes(np.zeros((2, 2), np.uint8), np.array([-0.0, 1])), "0.0 for code 0"),
        (lambda: tensor_format.encode_codes(np.full((2, 2), 2, np.uint8), np.arange(2)), "below the codebook's size"),
        (lambda: tensor_format.encode_scaled(np.zeros((2, 2), np.uint8), np.ones(2)), "type int8, got uint8"),
        (lambda: tensor_format.encode_scaled(np.zeros((2, 2), np.int8), np.ones(3)), "each of the 2 rows"),
        (lambda: tensor_format.encode_scaled(np.zeros((2, 2), np.int8), np.array([1, -1])), "at least 0.0"),
        (lambda: tensor_format.encode_scaled(np.zeros((2, 2), np.int8), np.array([1, np.nan])), "finite"),
        (lambda: tensor_format.encode_exact(np.zeros((2, 2), np.float64)), "float32 or float16 or int8 or uint8"),
        (lambda: tensor_format.encode_exact(np.zeros((2, 2), np.float32), fill=1), "fill: expected 0 for float32"),
        (lambda: tensor_format.encode_exact(np.zeros((2, 2), np.int8), fill=128), "fill: expected a value of int8"),
        (lambda: tensor_format.encode_exact(np.zeros((2, 2), np.uint8), fill=-1), "fill: expected a value of uint8"),
        (lambda: Layout("some"), "expected positions 'all', 'gaps' or 'bitmap', got 'some'"),
        (lambda: Layout("gaps"), "escape from 1 to 255 for gaps and 0 for others, got 0"),
        (lambda: Layout("bitmap", escape=1), "escape from 1 to 255 for gaps and 0 for others, got 1"),
        (lambda: Layout("all", block=(65536, 1)), "from 1 to 65535"),
        (lambda: tensor_format.decode(np.zeros((2, 2), np.uint8)), r"expected shape \(num_bytes,\)"),
        (lambda: tensor_format.decode_codes(SMALL["tensor_all_pruned_all"][:5]), "truncated"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_codes_of_what_has_no_codebook():
    packed = tensor_format.encode_scaled(np.ones((2, 2), np.int8), np.ones(2))
    with pytest.raises(FormatError, match="expected a codebook, got scaled"):
        tensor_format.decode_codes(packed)


@pytest.mark.parametrize("same", [np.frombuffer(TINY, np.uint8), bytearray(TINY), memoryview(TINY)], ids=type)
def test_what_holds_bytes_is_a_buffer(same):
    np.testing.assert_array_equal(tensor_format.decode(same), tensor_format.decode(TINY), strict=True)
    assert tensor_format.read_header(same) == tensor_format.check(TINY)


@pytest.mark.parametrize("read", [tensor_format.read_header, tensor_format.check, tensor_format.decode])
@pytest.mark.parametrize("other", [10**8, "KPRI", None], ids=repr)
def test_what_is_not_bytes_is_a_type_error(read, other):
    with pytest.raises(TypeError, match="expected bytes or a uint8 array, got"):
        read(other)


def test_the_example_in_the_documentation():
    text = (GOLDEN.parents[1] / "docs" / "format.md").read_text()
    block = next(part for part in text.split("```") if part.strip().startswith("4b505249 02"))
    codes = [re.split(r"\s{3,}(?=[a-z])", line.strip())[0] for line in block.strip().splitlines()]
    assert bytes.fromhex("".join(codes)) == TINY_RANS
