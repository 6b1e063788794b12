"""Symbol streams: bytes 0 to 255 coded with a fixed width or, near their entropy, with rANS. NumPy only.

A stream is what version 2 of the storage format (docs/format.md) holds gaps, bitmaps and codes in. rANS is the range
variant of asymmetric numeral systems: Duda 2013 (https://arxiv.org/abs/1311.2540). The symbols are dealt to 1, 4, 16
or 64 *lanes*, coders of their own that share the frequencies and the words, so that a step codes one symbol of each
lane at once: in NumPy here, in registers in C++.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

import numpy as np

from keras_prune.sparse_format import FormatError, pack_bits, unpack_bits
from keras_prune.symbol_frequencies import (
    PRECISION_BITS,
    TOTAL,
    frequency_table,
    quantized_frequencies,
    read_frequencies,
    symbol_counts,
)

LOWEST_STATE = 1 << 16  # a state is a uint32 in [2^16, 2^32) between symbols; words are 16 bits
MAX_LANE_BITS = 6
_LANES_FROM = {1 << 17: 6, 1 << 14: 4, 1 << 11: 2}  # symbols -> log2 of lanes: a lane costs about 2 bytes, under 1 %
_HEAD = struct.Struct("<BBI")
_CHUNK_STEPS = 1 << 12  # steps coded at once: bounds the temporary memory to a few MB


@dataclasses.dataclass(frozen=True)
class Stream:
    """A symbol stream in a buffer: its head is read and checked, its symbols are not.

    Attributes:
        coder: "fixed" or "rans".
        bits: fixed: bits of a symbol, 0 to 8. rans: log2 of the number of lanes, 0 to 6.
        num_symbols: symbols in the stream.
        num_bytes: bytes of the whole stream, its head included.
        frequencies: rans: (last + 1,) uint32 that sum to 2^14; fixed: empty.
        payload: fixed: the packed bits; rans: states and words.
    """

    coder: str
    bits: int
    num_symbols: int
    num_bytes: int
    frequencies: np.ndarray
    payload: memoryview

    def chunks(self) -> Iterator[np.ndarray]:
        """The symbols, (n,) uint8 at a time; raises `FormatError` where the stream breaks a rule."""
        if self.coder == "fixed":
            yield from _fixed_chunks(self)
        elif len(self.frequencies) and self.frequencies[-1] == TOTAL:
            yield from _constant_chunks(self)
        else:
            yield from _rans_chunks(self)

    def decode(self) -> np.ndarray:
        """All symbols, (num_symbols,) uint8; raises `FormatError` where the stream breaks a rule."""
        symbols = np.empty(self.num_symbols, np.uint8)
        at = 0
        for chunk in self.chunks():
            symbols[at : at + len(chunk)] = chunk
            at += len(chunk)
        return symbols


def estimated_bytes(counts: np.ndarray) -> int:
    """Bytes that `encode` needs for symbols with these counts, but for a byte or two a lane.

    Args:
        counts: (size,) int64, how often each symbol occurs, size up to 256.

    Returns:
        The bytes of the whole stream.
    """
    num_symbols = int(counts.sum())
    if num_symbols == 0:
        return _HEAD.size
    present = np.flatnonzero(counts)
    fixed = _fixed_bytes(num_symbols, int(present[-1]).bit_length())
    frequencies = quantized_frequencies(counts[: present[-1] + 1])
    bits = float((counts[present] * (PRECISION_BITS - np.log2(frequencies[present]))).sum())
    lanes = 1 << _lane_bits(num_symbols)
    return min(fixed, _HEAD.size + 1 + len(frequency_table(frequencies)) + 4 + 3 * lanes + int(bits / 8))


def stream_cost(counts: np.ndarray) -> int:
    """`estimated_bytes`, and a byte for 64 symbols: the time to decode these, some 200 ns, is worth one."""
    return estimated_bytes(counts) + int(counts.sum()) // 64


def encode(symbols: np.ndarray, *, coder: str | None = None, lane_bits: int | None = None) -> bytes:
    """Codes a stream.

    Args:
        symbols: (num_symbols,) uint8.
        coder: "fixed" or "rans"; by default the one that needs fewer bytes, "fixed" where both need the same.
        lane_bits: log2 of the number of rANS lanes, 0 to 6; by default few for few symbols.

    Returns:
        The stream; ``read(encode(symbols)).decode()`` gives the symbols back.

    Raises:
        ValueError: not uint8 in one dimension, an unknown coder, a number of lanes that the format does not have.

    Example:
        >>> import numpy as np
        >>> stream = read(encode(np.array([3, 3, 0, 3], np.uint8)))
        >>> stream.decode().tolist(), stream.coder, stream.bits
        ([3, 3, 0, 3], 'fixed', 2)
    """
    symbols = np.asarray(symbols)
    if symbols.dtype != np.uint8 or symbols.ndim != 1:
        raise ValueError(f"symbols: expected uint8 of shape (num_symbols,), got {symbols.dtype} {symbols.shape}")
    if coder not in (None, "fixed", "rans"):
        raise ValueError(f"coder: expected 'fixed' or 'rans', got {coder!r}")
    lane_bits = _lane_bits(len(symbols)) if lane_bits is None else lane_bits
    if lane_bits not in range(MAX_LANE_BITS + 1):
        raise ValueError(f"lane_bits: expected 0 to {MAX_LANE_BITS}, got {lane_bits}")
    bits = int(symbols.max()).bit_length() if len(symbols) else 0
    if len(symbols) == 0 or coder == "fixed":
        return _encode_fixed(symbols, bits)
    counts = symbol_counts(symbols)
    fixed_bytes = _fixed_bytes(len(symbols), bits)
    if coder is None and estimated_bytes(counts) == fixed_bytes:
        return _encode_fixed(symbols, bits)
    coded = _encode_rans(symbols, counts, lane_bits)
    return coded if coder == "rans" or len(coded) < fixed_bytes else _encode_fixed(symbols, bits)


def read(data: bytes | memoryview) -> Stream:
    """Reads and checks the head of the stream that ``data`` begins with; decodes nothing.

    Args:
        data: the stream, and whatever follows it.

    Returns:
        The stream; its ``num_bytes`` are within the data.

    Raises:
        FormatError: truncated, or a head that breaks a rule.
    """
    data = memoryview(data)
    _need(data, _HEAD.size)
    coder, bits, num_symbols = _HEAD.unpack_from(data)
    if coder == 0 and bits <= 8 and (num_symbols > 0 or bits == 0):
        num_bytes = _fixed_bytes(num_symbols, bits)
        _need(data, num_bytes)
        return Stream("fixed", bits, num_symbols, num_bytes, np.zeros(0, np.uint32), data[_HEAD.size : num_bytes])
    if coder == 1 and bits <= MAX_LANE_BITS and num_symbols > 0:
        return _read_rans(data, bits, num_symbols)
    raise FormatError(
        f"packed weights: no symbol stream has coder {coder} with parameter {bits} and {num_symbols} symbols; the "
        "buffer was not made by keras_prune"
    )


def _need(data: memoryview, num_bytes: int) -> None:
    if len(data) < num_bytes:
        raise FormatError(f"packed weights: expected a symbol stream of {num_bytes} bytes, got {len(data)}: truncated")


def _lane_bits(num_symbols: int) -> int:
    return next((bits for symbols, bits in _LANES_FROM.items() if num_symbols >= symbols), 0)


def _fixed_bytes(num_symbols: int, bits: int) -> int:
    return _HEAD.size + (num_symbols * bits + 7) // 8


def _encode_fixed(symbols: np.ndarray, bits: int) -> bytes:
    return _HEAD.pack(0, bits, len(symbols)) + (symbols.tobytes() if bits == 8 else pack_bits(symbols, bits))


def _fixed_chunks(stream: Stream) -> Iterator[np.ndarray]:
    step = 1 << 20  # a multiple of 8 symbols: whole bytes
    for start in range(0, stream.num_symbols, step):
        count = min(step, stream.num_symbols - start)
        first = start * stream.bits // 8
        raw = stream.payload[first : first + (count * stream.bits + 7) // 8]
        yield np.frombuffer(raw, np.uint8) if stream.bits == 8 else unpack_bits(raw, count, stream.bits)


def _read_rans(data: memoryview, lane_bits: int, num_symbols: int) -> Stream:
    _need(data, _HEAD.size + 1)
    frequencies, table_bytes = read_frequencies(data[_HEAD.size + 1 :], data[_HEAD.size] + 1)
    start = _HEAD.size + 1 + table_bytes + 4
    _need(data, start)
    num_words = struct.unpack_from("<I", data, start - 4)[0]
    end = start + (4 << lane_bits) + 2 * num_words
    _need(data, end)
    if num_words > num_symbols:
        raise FormatError(f"packed weights: {num_words} words for {num_symbols} symbols; the buffer is corrupt")
    if (np.frombuffer(data[start:end], "<u4", 1 << lane_bits) < LOWEST_STATE).any():
        raise FormatError("packed weights: a coder's state is too small; the buffer was not made by keras_prune")
    return Stream("rans", lane_bits, num_symbols, end, frequencies, data[start:end])


def _encode_rans(symbols: np.ndarray, counts: np.ndarray, lane_bits: int) -> bytes:
    frequencies = quantized_frequencies(counts[: int(symbols.max()) + 1])
    states = np.full(1 << lane_bits, LOWEST_STATE, np.uint32)
    tables = _encoder_tables(frequencies)
    chunk = _CHUNK_STEPS << lane_bits
    # One symbol only: its state never moves and nothing is emitted.
    starts = range(0, len(symbols) if frequencies[-1] < TOTAL else 0, chunk)
    words = [_encode_chunk(symbols[start : start + chunk], states, tables) for start in reversed(starts)]
    body = b"".join(reversed(words))
    head = _HEAD.pack(1, lane_bits, len(symbols)) + bytes([len(frequencies) - 1]) + frequency_table(frequencies)
    return head + struct.pack("<I", len(body) // 2) + states.astype("<u4").tobytes() + body


def _encoder_tables(frequencies: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each symbol: the state that emits a word, the frequency, what is added a division, what is added."""
    limits = np.minimum(frequencies << (32 - PRECISION_BITS), 2**32 - 1)  # 2^32: one symbol only, coded without them
    starts = np.cumsum(frequencies) - frequencies
    return tuple(a.astype(np.uint32) for a in (limits, np.maximum(frequencies, 1), TOTAL - frequencies, starts))


def _encode_chunk(symbols: np.ndarray, states: np.ndarray, tables: tuple[np.ndarray, ...]) -> bytes:
    """Codes symbols from the last to the first, changes the states, returns the words in the order of decoding."""
    lanes = len(states)
    steps = -(-len(symbols) // lanes)
    padded = np.zeros(steps * lanes, np.uint8)
    padded[: len(symbols)] = symbols
    rows = [table[padded].reshape(steps, lanes) for table in tables]
    emits = np.zeros((steps, lanes), bool)
    seen = np.zeros((steps, lanes), np.uint32)
    quotients = np.empty(lanes, np.uint32)
    tail = len(symbols) - (steps - 1) * lanes  # the last step has fewer lanes
    for step in reversed(range(steps)):
        width = tail if step == steps - 1 else lanes
        x, quotient, emit = states[:width], quotients[:width], emits[step, :width]
        limit, frequency, per_quotient, start = (row[step, :width] for row in rows)
        np.greater_equal(x, limit, out=emit)
        seen[step, :width] = x
        np.right_shift(x, 16, out=x, where=emit)
        # (x / f << 14) + x % f + start = x + x / f * (2^14 - f) + start
        np.floor_divide(x, frequency, out=quotient)
        np.multiply(quotient, per_quotient, out=quotient)
        np.add(x, quotient, out=x)
        np.add(x, start, out=x)
    return (seen[emits] & 0xFFFF).astype("<u2").tobytes()


def _constant_chunks(stream: Stream) -> Iterator[np.ndarray]:
    """A stream of one symbol only: its state never moves."""
    _check_end(stream, np.frombuffer(stream.payload, "<u4", 1 << stream.bits), words_read=0)
    step = 1 << 20
    for start in range(0, stream.num_symbols, step):
        yield np.full(min(step, stream.num_symbols - start), len(stream.frequencies) - 1, np.uint8)


def _check_end(stream: Stream, states: np.ndarray, *, words_read: int) -> None:
    num_words = (len(stream.payload) - (4 << stream.bits)) // 2
    if words_read != num_words or (states != LOWEST_STATE).any():
        raise FormatError("packed weights: a symbol stream does not end where it should; the buffer is corrupt")


def _rans_chunks(stream: Stream) -> Iterator[np.ndarray]:
    lanes = 1 << stream.bits
    states = np.frombuffer(stream.payload, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(stream.payload, "<u2", offset=4 * lanes)
    tables = _decoder_tables(stream.frequencies)
    words_read = 0
    for start in range(0, stream.num_symbols, _CHUNK_STEPS * lanes):
        count = min(_CHUNK_STEPS * lanes, stream.num_symbols - start)
        symbols, taken = _decode_chunk(count, states, words=words[words_read:], tables=tables)
        words_read += taken
        yield symbols
    _check_end(stream, states, words_read=words_read)


def _decoder_tables(frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the 2^14 slots: its symbol, the symbol's frequency, and the slot's number within the symbol."""
    symbols = np.repeat(np.arange(len(frequencies), dtype=np.uint8), frequencies)
    starts = (np.cumsum(frequencies) - frequencies).astype(np.uint32)
    return symbols, frequencies[symbols], np.arange(TOTAL, dtype=np.uint32) - starts[symbols]


def _decode_chunk(
    count: int, states: np.ndarray, *, words: np.ndarray, tables: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, int]:
    """Decodes ``count`` symbols, changes the states, returns the symbols and how many words they took."""
    symbol_of, frequency_of, offset_of = tables
    at = 0
    lanes = len(states)
    slots = np.zeros(-(-count // lanes) * lanes, np.uint32)
    for start in range(0, count, lanes):
        x = states[: count - start]
        slot = slots[start : start + len(x)]
        np.bitwise_and(x, TOTAL - 1, out=slot)
        np.right_shift(x, PRECISION_BITS, out=x)
        np.multiply(x, frequency_of[slot], out=x)
        np.add(x, offset_of[slot], out=x)
        low = (x < LOWEST_STATE).nonzero()[0]
        if len(low):
            taken = words[at : at + len(low)]
            if len(taken) < len(low):
                raise FormatError("packed weights: a symbol stream needs more words than it has; the buffer is corrupt")
            x[low] = (x[low] << 16) | taken
            at += len(low)
    return symbol_of[slots[:count]], at
