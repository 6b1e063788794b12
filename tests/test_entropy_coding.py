"""Symbol streams: round trips, golden literals, closeness to the entropy, and what must be refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_bytes import CODES_RANS, fixed, rans  # type: ignore[import-not-found]

from keras_prune import entropy_coding
from keras_prune.sparse_format import FormatError
from keras_prune.symbol_frequencies import (
    TOTAL,
    frequency_table,
    quantized_frequencies,
    read_frequencies,
    symbol_counts,
)


@st.composite
def symbol_arrays(draw: st.DrawFn) -> np.ndarray:
    """Lengths around the lanes' tails; few symbols and all of them; one symbol only; very rare symbols."""
    length = draw(st.sampled_from([0, 1, 2, 3, 63, 64, 65, 127, 1000, 4097]))
    largest = draw(st.sampled_from([0, 1, 2, 7, 31, 200, 255]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([0.0, 0.5, 1.0, 30.0]))
    symbols = (largest * rng.random(length) ** (1 + skew)).round().astype(np.uint8)
    for position in draw(st.lists(st.integers(0, max(0, length - 1)), max_size=3)):
        symbols[position : position + 1] = draw(st.integers(0, 255))
    return symbols


@given(
    symbols=symbol_arrays(),
    coder=st.sampled_from([None, "fixed", "rans"]),
    lane_bits=st.sampled_from([None, *range(7)]),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(symbols, coder, lane_bits):
    coded = entropy_coding.encode(symbols, coder=coder, lane_bits=lane_bits)
    stream = entropy_coding.read(coded + b"what follows")
    assert stream.num_bytes == len(coded)
    assert stream.num_symbols == len(symbols)
    assert len(symbols) == 0 or coder in (None, stream.coder)
    assert stream.coder == "fixed" or lane_bits in (None, stream.bits)
    np.testing.assert_array_equal(stream.decode(), symbols)


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) + 1, (1 << 18) + 63])
@pytest.mark.parametrize("coder", ["fixed", "rans"])
def test_round_trip_over_the_edges_of_chunks(length, coder):
    symbols = (np.arange(length, dtype=np.uint64) * 2654435761 >> 20).astype(np.uint8) & 31
    coded = entropy_coding.encode(symbols, coder=coder)
    np.testing.assert_array_equal(entropy_coding.read(coded).decode(), symbols)


def test_fixed_bytes_are_as_documented():
    assert entropy_coding.encode(np.array([1, 3], np.uint8)) == fixed(2, 2, "0d")
    assert entropy_coding.encode(np.zeros(0, np.uint8)) == fixed(0, 0, "")
    assert entropy_coding.encode(np.zeros(9, np.uint8)) == fixed(0, 9, "")
    assert entropy_coding.encode(np.array([255, 1], np.uint8)) == fixed(8, 2, "ff01")


def test_rans_bytes_are_as_documented():
    assert entropy_coding.encode(np.array([1, 2], np.uint8), coder="rans") == CODES_RANS
    # One symbol only: the state never moves, whatever the length.
    constant = entropy_coding.encode(np.full(10**6, 3, np.uint8), lane_bits=0)
    assert constant == rans(10**6, "03 000000 808001", [65536])


def plain_decode(coded: bytes) -> list[int]:
    """The loop of docs/format.md, symbol by symbol, in Python's own integers."""
    lanes, num_symbols = 1 << coded[1], int.from_bytes(coded[2:6], "little")
    at, frequencies = 7, []
    for _ in range(coded[6] + 1):
        value, shift = 0, 0
        while True:
            value |= (coded[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if coded[at - 1] < 128:
                break
        frequencies.append(value)
    states = np.frombuffer(coded, "<u4", lanes, at + 4).tolist()
    words = np.frombuffer(coded, "<u2", offset=at + 4 + 4 * lanes).tolist()
    symbols = []
    for i in range(num_symbols):
        x = states[i % lanes]
        slot, symbol, start = x % TOTAL, 0, 0
        while slot >= start + frequencies[symbol]:
            start, symbol = start + frequencies[symbol], symbol + 1
        x = frequencies[symbol] * (x // TOTAL) + slot - start
        states[i % lanes] = x if x >= 65536 else x << 16 | words.pop(0)
        symbols.append(symbol)
    assert not words
    assert set(states) == {65536}
    return symbols


@given(symbols=symbol_arrays(), lane_bits=st.sampled_from([0, 2, 6]))
@settings(max_examples=40, deadline=None)
def test_rans_is_decoded_by_the_documented_loop(symbols, lane_bits):
    if len(symbols):
        coded = entropy_coding.encode(symbols, coder="rans", lane_bits=lane_bits)
        assert plain_decode(coded) == symbols.tolist()


@given(counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=256).filter(any))
@settings(max_examples=100, deadline=None)
def test_frequencies_are_a_whole_and_miss_no_symbol(counts):
    frequencies = quantized_frequencies(np.array(counts))
    assert frequencies.sum() == TOTAL
    np.testing.assert_array_equal(frequencies > 0, np.array(counts) > 0)
    table = frequency_table(frequencies)
    if counts[-1]:
        got, num_bytes = read_frequencies(memoryview(table + b"rest"), len(counts))
        np.testing.assert_array_equal(got, frequencies)
        assert num_bytes == len(table)


@given(counts=st.lists(st.integers(1, 10**4), min_size=2, max_size=12))
@settings(max_examples=100, deadline=None)
def test_no_step_between_two_frequencies_saves_much(counts):
    # An exchange of one step between any two symbols is the neighbourhood in which a convex sum has its only minimum.
    frequencies = quantized_frequencies(np.array(counts)).astype(np.float64)

    def bits(values: np.ndarray) -> float:
        return -float((np.array(counts) * np.log2(values / TOTAL)).sum())

    best = bits(frequencies)
    for give, take in itertools.permutations(range(len(counts)), 2):
        moved = frequencies.copy()
        moved[give], moved[take] = moved[give] - 1, moved[take] + 1
        if moved[give] >= 1:
            # 1 / (f + 1/2) for log(1 + 1/f) is off by 4 % at f = 1, where a step is worth a few bits.
            assert bits(moved) >= best - 0.5


def test_frequencies_of_rare_symbols():
    counts = np.array([10**9, 1, 0, 1])
    np.testing.assert_array_equal(quantized_frequencies(counts), [TOTAL - 2, 1, 0, 1])
    np.testing.assert_array_equal(quantized_frequencies(np.ones(256, np.int64)), np.full(256, 64))
    np.testing.assert_array_equal(quantized_frequencies(np.array([0, 5])), [0, TOTAL])


@pytest.mark.parametrize("probability", [0.5, 0.25, 0.1, 0.04])
@pytest.mark.parametrize("length", [3000, 20_000, 200_000])
def test_rans_nears_the_entropy(probability, length):
    symbols = np.minimum(np.random.default_rng(1).geometric(probability, length) - 1, 255).astype(np.uint8)
    counts = symbol_counts(symbols)
    shares = counts[counts > 0] / length
    entropy_bytes = -float((shares * np.log2(shares)).sum()) * length / 8
    stream = entropy_coding.read(entropy_coding.encode(symbols))
    lanes = 1 << stream.bits
    table = len(frequency_table(stream.frequencies.astype(np.int64)))
    # The head (6 + 1 + 4 bytes), the table, four bytes a lane; half a per mille for frequencies of 14 bits.
    assert stream.coder == "rans"
    assert stream.num_bytes <= 1.0005 * entropy_bytes + 11 + table + 4 * lanes
    assert abs(stream.num_bytes - entropy_coding.estimated_bytes(counts)) <= 2 * lanes + 2


@given(symbols=symbol_arrays())
@settings(max_examples=60, deadline=None)
def test_the_choice_of_a_coder_is_the_smaller_one(symbols):
    sizes = [len(entropy_coding.encode(symbols, coder=coder)) for coder in ("fixed", "rans")]
    assert len(entropy_coding.encode(symbols)) == min(sizes)


@given(data=st.binary(max_size=100))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_or_decoded(data):
    for head in (b"", b"\0\3\5\0\0\0", b"\1\0\5\0\0\0\0\x80\x80\1", b"\1\1\5\0\0\0\1\x80\x40\x80\x40"):
        try:
            stream = entropy_coding.read(head + data)
            if stream.num_symbols > 1000:
                continue  # as many symbols as it says: the caller knows how many there should be
            symbols = stream.decode()
        except FormatError:
            continue
        assert len(symbols) == stream.num_symbols


@pytest.mark.parametrize("lane_bits", [0, 2])
def test_every_truncation_and_bit_flip_is_refused_or_other_symbols(lane_bits):
    symbols = (np.arange(60) % 7).astype(np.uint8)
    coded = entropy_coding.encode(symbols, coder="rans", lane_bits=lane_bits)
    for length in range(len(coded)):
        with pytest.raises(FormatError):
            entropy_coding.read(coded[:length])
    for bit in range(8 * 2, 8 * len(coded)):  # the checksum of the buffer finds these; here nothing may go astray
        flipped = bytearray(coded)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            stream = entropy_coding.read(flipped)
            got = stream.decode() if stream.num_symbols < 10**4 else None
        except FormatError:
            continue
        assert got is None or len(got) == stream.num_symbols


@pytest.mark.parametrize(
    ("symbols", "options", "message"),
    [
        (np.zeros(3, np.int64), {}, "expected uint8"),
        (np.zeros((3, 1), np.uint8), {}, "expected uint8"),
        (np.zeros(3, np.uint8), {"coder": "huffman"}, "'fixed' or 'rans', got 'huffman'"),
        (np.zeros(3, np.uint8), {"lane_bits": 7}, "0 to 6, got 7"),
    ],
)
def test_the_encoder_checks_its_input(symbols, options, message):
    with pytest.raises(ValueError, match=message):
        entropy_coding.encode(symbols, **options)
