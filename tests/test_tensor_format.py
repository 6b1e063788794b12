"""Version 2 of the storage format: golden bytes shared with the C++ tests, and round trips."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_bytes import (  # type: ignore[import-not-found]
    TINY,
    TINY_BITMAP,
    TINY_RANS,
)

from keras_prune import tensor_format
from keras_prune.tensor_format import Layout

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
MANIFEST = [line.split() for line in (GOLDEN / "tensor_manifest.txt").read_text().splitlines()]
SHAPES = [(1, 1), (1, 700), (700, 1), (3, 257), (16, 16), (17, 33), (2, 1030), (5, 7)]
POSITIONS, VALUES = ("all", "gaps", "bitmap"), ("codebook", "scaled", "split")
ELEMENTS = ("float32", "float16", "int8", "uint8")


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    bits = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(got.view(bits), np.ascontiguousarray(expected).view(bits))


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Hostile shapes and patterns: nothing, everything, few survivors, blocks, N of M, rows, both ends."""
    rows, cols = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 1.0, 0.003, 0.05, 0.3, 0.97]))
    block = draw(st.sampled_from([(1, 1), (4, 1), (1, 8), (2, 2), (16, 16), (1, 10**9)]))
    units = rng.random((-(-rows // block[0]), -(-cols // min(block[1], cols)))) < density
    mask = np.kron(units, np.ones((block[0], min(block[1], cols)), bool))[:rows, :cols]
    if draw(st.booleans()):  # 2 of 4 along the columns
        mask &= np.argsort(np.argsort(rng.random((rows, -(-cols // 4), 4)))).reshape(rows, -1)[:, :cols] < 2
    for position in draw(st.lists(st.integers(0, rows * cols - 1), max_size=3)):
        mask.reshape(-1)[position] = draw(st.booleans())
    return mask


@st.composite
def layouts(draw: st.DrawFn) -> Layout | None:
    """Any layout that the format allows, whether it pays or not."""
    if draw(st.booleans()):
        return None
    positions = draw(st.sampled_from(POSITIONS))
    return Layout(
        positions,
        block=(draw(st.integers(1, 20)), draw(st.integers(1, 20))),
        escape=draw(st.sampled_from([1, 2, 15, 31, 200, 255])) if positions == "gaps" else 0,
        coder=draw(st.sampled_from([None, "fixed", "rans"])),
        lane_bits=draw(st.sampled_from([None, 0, 2, 3, 6])),
    )


def check_header(packed: bytes, shape: tuple[int, ...]) -> tensor_format.TensorHeader:
    header = tensor_format.read_header(packed)
    sections = header.table_bytes + header.position_bytes + header.symbol_bytes + header.low_bytes
    assert header.header_bytes + sections == header.num_bytes == len(packed)
    assert (header.rows, header.cols) == shape
    assert header == tensor_format.check(packed)
    return header


@given(mask=masks(), layout=layouts(), size=st.sampled_from([1, 2, 3, 16, 17, 255, 256]))
@settings(max_examples=80, deadline=None)
def test_codes_round_trip(mask, layout, size):
    codebook = np.concatenate([[0], np.arange(1, size) - size / 2 - 0.25]).astype(np.float32)
    codes = (np.arange(mask.size).reshape(mask.shape) % max(1, size - 1) + (size > 1)).astype(np.uint8) * mask
    packed = tensor_format.encode_codes(codes, codebook, layout=layout)
    same_bits(tensor_format.decode(packed), codebook[codes])
    got_codes, got_codebook = tensor_format.decode_codes(packed)
    same_bits(got_codes, codes)
    same_bits(got_codebook, codebook)
    header = check_header(packed, mask.shape)
    assert (header.values, header.element, header.codebook_size) == ("codebook", "float32", size)


@given(mask=masks(), layout=layouts(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_scaled_round_trip(mask, layout, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, mask.shape).astype(np.int8) * mask
    scales = rng.choice(np.array([0.0, 1e-45, 0.1, 1.0, 3e38], np.float32), len(mask))
    packed = tensor_format.encode_scaled(codes, scales, layout=layout)
    with np.errstate(over="ignore"):
        same_bits(tensor_format.decode(packed), codes.astype(np.float32) * scales[:, None])
    assert check_header(packed, mask.shape).values == "scaled"


SPECIAL = {
    "float32": [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFA00000, 0x7FA00000, 1, 0x7F7FFFFF],
    "float16": [0x8000, 0x7C00, 0xFC00, 0x7E01, 0xFD00, 0x7D00, 1, 0x7BFF],
}


@st.composite
def floats(draw: st.DrawFn, element: str) -> np.ndarray:
    mask = draw(masks())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.where(mask, rng.normal(0, 0.05, mask.shape), 0).astype(element)
    bits = values.view(f"u{values.dtype.itemsize}").reshape(-1)
    for i, which in enumerate(draw(st.lists(st.integers(0, 7), max_size=8))):
        bits[i * 7919 % len(bits)] = SPECIAL[element][which]
    return values


@given(values=st.sampled_from(["float32", "float16"]).flatmap(floats), layout=layouts())
@settings(max_examples=80, deadline=None)
def test_exact_floats_round_trip(values, layout):
    packed = tensor_format.encode_exact(values, layout=layout)
    decoded = tensor_format.decode(packed)
    check_header(packed, values.shape)
    same_bits(decoded.astype(values.dtype) if decoded.dtype != values.dtype else decoded, values)


@given(mask=masks(), layout=layouts(), element=st.sampled_from(["int8", "uint8"]), fill=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_exact_bytes_round_trip(mask, layout, *, element, fill):
    values = np.random.default_rng(fill).integers(0, 256, mask.shape).astype(np.uint8)
    values[~mask] = fill
    values = values.view(element)
    fill = int(np.array(fill, np.uint8).view(element))
    packed = tensor_format.encode_exact(values, fill=fill, layout=layout)
    same_bits(tensor_format.decode(packed), values)
    header = check_header(packed, mask.shape)
    assert (header.values, header.element, header.fill) == ("split", element, fill & 255)


def test_float32_of_float16_values_is_stored_as_those():
    halves = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float16)
    halves[0, :4] = [-0.0, np.inf, -np.inf, 2**-24]
    values = halves.astype(np.float32)
    packed = tensor_format.encode_exact(values)
    assert tensor_format.read_header(packed).element == "float16"
    same_bits(tensor_format.decode(packed), halves)
    kept = tensor_format.encode_exact(values, allow_float16=False)
    assert tensor_format.read_header(kept).element == "float32"
    same_bits(tensor_format.decode(kept), values)
    # Which bits of a NaN survive a conversion depends on the processor: none is converted.
    values[3, 3] = np.nan
    same_bits(tensor_format.decode(tensor_format.encode_exact(values)), values)


def test_float32_of_few_values_becomes_a_codebook():
    values = np.random.default_rng(0).choice(np.float32([0, 0.1, -0.0, 1e30, -0.3]), (60, 70))
    packed = tensor_format.encode_exact(values)
    assert tensor_format.read_header(packed).values == "codebook"
    same_bits(tensor_format.decode(packed), values)
    large = np.resize(values, (300, 301))
    assert tensor_format.read_header(tensor_format.encode_exact(large)).values == "codebook"
    values[0, 0] = np.nan  # a codebook is finite
    assert tensor_format.read_header(tensor_format.encode_exact(values)).values == "split"
    few = np.float32([[0.1, 0.2]])  # a codebook would need as many bytes as the values
    assert tensor_format.read_header(tensor_format.encode_exact(few)).values == "split"


def test_other_memory_layouts_and_byte_orders():
    values = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    same_bits(tensor_format.decode(tensor_format.encode_exact(values.T)), np.ascontiguousarray(values.T))
    same_bits(tensor_format.decode(tensor_format.encode_exact(values[::2, ::-1])), values[::2, ::-1].copy())
    same_bits(tensor_format.decode(tensor_format.encode_exact(values.astype(">f4"))), values)
    codes = (values > 0).astype(np.int8)
    same_bits(tensor_format.decode(tensor_format.encode_scaled(codes.T, np.ones(20))), codes.T.astype(np.float32))


@pytest.mark.parametrize(
    "layout",
    [
        Layout("gaps", escape=63),
        Layout("bitmap"),
        Layout("all", coder="fixed"),
        Layout("gaps", (1100, 1000), escape=1),  # a unit of more weights than are indexed at once
        Layout("bitmap", (1, 1300)),
    ],
    ids=str,
)
def test_matrices_larger_than_what_is_looked_at_at_once(layout):
    rng = np.random.default_rng(0)
    codes = np.zeros((3300, 1301), np.uint8)  # over 2^22 weights
    codes.reshape(-1)[rng.integers(0, codes.size, 20_000)] = rng.integers(1, 16, 20_000)
    codes.reshape(-1)[[2**20 - 1, 2**20, 2**22 - 1, 2**22, codes.size - 1]] = 1
    packed = tensor_format.encode_codes(codes, np.arange(16), layout=layout)
    same_bits(tensor_format.decode_codes(packed)[0], codes)


@pytest.mark.parametrize(
    ("block", "expected"), [((1, 1), (1, 1)), ((4, 1), (4, 1)), ((1, 8), (1, 8)), ((2, 2), (2, 2)), ((16, 4), (16, 4))]
)
def test_blocks_are_found(block, expected):
    rng = np.random.default_rng(0)
    units = rng.random((320 // block[0], 640 // block[1])) < 0.2
    codes = np.kron(units, np.ones(block, np.uint8)) * rng.integers(1, 16, (320, 640)).astype(np.uint8)
    codes[units.argmax() % 300, 3] = 0  # a kept weight that is zero by chance does not hide them
    header = tensor_format.read_header(tensor_format.encode_codes(codes, np.arange(16)))
    assert (header.block_rows, header.block_cols) == expected


def test_two_of_four_costs_its_entropy():
    # log2(4 choose 2) = 2.585 bits for four weights; a byte of the bitmap holds two groups.
    rng = np.random.default_rng(0)
    mask = np.argsort(np.argsort(rng.random((256, 128, 4)))).reshape(256, 512) < 2
    codes = mask * rng.integers(1, 16, mask.shape).astype(np.uint8)
    header = tensor_format.read_header(tensor_format.encode_codes(codes, np.arange(16)))
    assert header.positions == "bitmap"
    assert header.position_bytes <= 1.01 * mask.size / 4 * np.log2(6) / 8 + 200  # the table of frequencies


@pytest.mark.parametrize("density", [0.01, 0.04, 0.09, 0.25, 0.5, 0.84])
def test_random_positions_and_codes_near_their_entropy(density):
    rng = np.random.default_rng(0)
    mask = rng.random((400, 1000)) < density
    codes = (np.clip(rng.laplace(8, 3, mask.shape), 1, 15) * mask).astype(np.uint8)
    header = tensor_format.read_header(tensor_format.encode_codes(codes, np.arange(16)))
    share, counts = mask.mean(), np.bincount(codes[mask])[1:]
    positions = -mask.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    bound = (positions - (counts * np.log2(counts / counts.sum())).sum()) / 8
    # Two tables of frequencies, two bytes a symbol, and the lanes' states are all that comes on top.
    assert header.position_bytes + header.symbol_bytes <= 1.005 * bound + 2 * 256


def test_the_layout_is_the_smallest_of_its_kinds():
    rng = np.random.default_rng(3)
    for density in (0.0, 0.02, 0.3, 0.6, 1.0):
        codes = ((rng.random((64, 200)) < density) * rng.integers(1, 8, (64, 200))).astype(np.uint8)
        tried = [Layout("all"), Layout("bitmap"), *(Layout("gaps", escape=escape) for escape in (7, 15, 31, 63, 255))]
        sizes = [len(tensor_format.encode_codes(codes, np.arange(8), layout=layout)) for layout in tried]
        # Fewer symbols to decode are worth a byte in 64: some candidates may be smaller by that.
        assert len(tensor_format.encode_codes(codes, np.arange(8))) <= min(sizes) + 64 * 200 // 64


def test_tiny_bytes_are_as_documented():
    codes, codebook = np.array([[0, 1, 0], [0, 0, 2]], np.uint8), np.array([0, 0.125, -0.25], np.float32)
    cases = {
        TINY: Layout("gaps", escape=7, coder="fixed"),
        TINY_BITMAP: Layout("bitmap", coder="fixed"),
    }
    for expected, layout in cases.items():
        assert tensor_format.encode_codes(codes, codebook, layout=layout) == expected
    for packed in (TINY, TINY_BITMAP, TINY_RANS):
        same_bits(tensor_format.decode(packed), codebook[codes])


@pytest.mark.parametrize("line", MANIFEST, ids=lambda line: line[0])
def test_golden(line):
    name, positions, values, element, *counts = line
    packed = (GOLDEN / f"{name}.packed").read_bytes()
    header = tensor_format.check(packed)
    kinds = (POSITIONS[int(positions)], VALUES[int(values)], ELEMENTS[int(element)])
    assert (header.positions, header.values, header.element) == kinds
    names = "rows cols block_rows block_cols num_units num_values escape fill codebook_size".split()
    assert [getattr(header, field) for field in names] == [int(count) for count in counts]
    dense = np.fromfile(GOLDEN / f"{name}.dense", kinds[2]).reshape(header.rows, header.cols)
    same_bits(tensor_format.decode(packed), dense)


def test_golden_files_are_reproduced(tmp_path):
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None
    assert spec.loader is not None
    make_golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_golden)
    make_golden.FOLDER = tmp_path
    make_golden.main()
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = {path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.is_file() and path.suffix != ".py"}
    assert written == expected
    kinds = {tuple(line[1:4]) for line in MANIFEST}
    assert len(kinds) >= 3 + 3 + 3 * 4 - 3  # every element with most of the positions
