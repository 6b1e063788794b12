"""The storage format of pruned, quantized weights: NumPy specification, encoder and decoder.

A packed buffer holds one matrix of shape (rows, cols) = (outputs, inputs) as a stream of *entries*
in row-major order. An entry is a gap (how many zeros lie before it) and a code (an index into the
layer's codebook). Where a gap does not fit its bits, *fillers* (stored zeros, code 0) bridge it:
the relative index of Han et al. 2015 (https://arxiv.org/abs/1506.02626) and Han et al. 2016
(https://arxiv.org/abs/1510.00149).

Every byte is described in docs/format.md; ``custom_ops/sparse_format.h`` mirrors this module and both
are tested on the same golden bytes. This module imports NumPy only.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np

MAGIC = b"KPRI"
VERSION = 1
GAP_BITS = range(4, 9)
CODE_BITS = range(2, 9)
HEADER = struct.Struct("<4sBBBBIIIIIII")
CRC_OFFSET = HEADER.size - 4
MAX_WEIGHTS = 2**32 - 1
MAX_SIDE = 2**31 - 1  # of rows and of columns: tensor dimensions of the runtimes are int32
_CHUNK = 1 << 20  # values handled at once by the bit packer: bounds its temporary memory to a few MB


Buffer = bytes | bytearray | memoryview | np.ndarray


class FormatError(ValueError):
    """Packed bytes that are truncated, corrupt, of another version, or not in canonical form."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The fixed-size head of a packed buffer.

    Attributes:
        gap_bits: bits of one gap, 4 to 8.
        code_bits: bits of one code, 2 to 8.
        rows: outputs of the layer, at most 2^31 - 1.
        cols: inputs of the layer, likewise.
        num_entries: kept weights and fillers.
        num_kept: kept weights.
        codebook_size: values in the codebook, the zero of code 0 included.
        num_bytes: size of the whole buffer.
    """

    gap_bits: int
    code_bits: int
    rows: int
    cols: int
    num_entries: int
    num_kept: int
    codebook_size: int
    num_bytes: int

    @property
    def num_fillers(self) -> int:
        """Stored zeros that bridge gaps too large for ``gap_bits``."""
        return self.num_entries - self.num_kept

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the codebook; the zero of code 0 is not stored."""
        return 4 * (self.codebook_size - 1)

    @property
    def gap_bytes(self) -> int:
        """Bytes of the gap stream."""
        return _stream_bytes(self.num_entries, self.gap_bits)

    @property
    def code_bytes(self) -> int:
        """Bytes of the code stream."""
        return _stream_bytes(self.num_entries, self.code_bits)


def _stream_bytes(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def pack_bits(values: np.ndarray, bits: int) -> bytes:
    """Packs uint8 values, least significant bit first, into ceil(len * bits / 8) bytes."""
    parts = []
    for start in range(0, len(values), _CHUNK):  # a chunk is a multiple of 8 values: whole bytes
        chunk = values[start : start + _CHUNK, None]
        planes = (chunk >> np.arange(bits, dtype=np.uint8)) & 1
        parts.append(np.packbits(planes.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpack_bits(data: bytes | memoryview, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_bits`; raises `FormatError` when the padding bits are not zero."""
    values = np.empty(count, np.uint8)
    raw = np.frombuffer(data, np.uint8)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    for start in range(0, count, _CHUNK):
        num = min(_CHUNK, count - start)
        first = start * bits // 8
        planes = np.unpackbits(raw[first : first + _stream_bytes(num, bits)], bitorder="little")
        values[start : start + num] = planes[: num * bits].reshape(num, bits) @ weights
        if planes[num * bits :].any():
            raise FormatError("packed weights: the padding bits of a stream are not zero; the buffer is corrupt")
    return values


def _zero_runs(codes: np.ndarray) -> np.ndarray:
    """How many zeros lie before each kept weight, as int64."""
    positions = np.flatnonzero(codes.reshape(-1))
    return np.diff(positions, prepend=-1) - 1


def best_gap_bits(zero_runs: np.ndarray, code_bits: int) -> int:
    """The gap width that needs the fewest bytes; the narrower one where two need the same.

    Args:
        zero_runs: zeros before each kept weight, (num_kept,) int64.
        code_bits: bits of one code, 2 to 8.

    Returns:
        The width in bits, 4 to 8.
    """

    def num_bytes(bits: int) -> int:
        entries = len(zero_runs) + int((zero_runs >> bits).sum())
        return _stream_bytes(entries, bits) + _stream_bytes(entries, code_bits)

    return min(GAP_BITS, key=num_bytes)


def _entries(codes: np.ndarray, zero_runs: np.ndarray, gap_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaps and codes of all entries, fillers included, both (num_entries,) uint8."""
    fillers = zero_runs >> gap_bits
    kept_at = np.arange(len(zero_runs)) + np.cumsum(fillers)
    num_entries = len(zero_runs) + int(fillers.sum())
    gaps = np.full(num_entries, (1 << gap_bits) - 1, np.uint8)
    gaps[kept_at] = zero_runs & ((1 << gap_bits) - 1)
    entry_codes = np.zeros(num_entries, np.uint8)
    entry_codes[kept_at] = codes.reshape(-1)[codes.reshape(-1) != 0]
    return gaps, entry_codes


def _check_input(codes: np.ndarray, codebook: np.ndarray) -> None:
    if codes.ndim != 2 or codes.dtype != np.uint8 or 0 in codes.shape:
        raise ValueError(
            f"codes: expected a non-empty uint8 array of shape (rows, cols), got {codes.dtype} {codes.shape}"
        )
    if codes.size > MAX_WEIGHTS or max(codes.shape) > MAX_SIDE:
        raise ValueError(
            f"codes: expected at most {MAX_WEIGHTS} weights in a layer and {MAX_SIDE} rows and columns, got shape "
            f"{codes.shape}; split the layer"
        )
    if codebook.ndim != 1 or not 1 <= len(codebook) <= 256:
        raise ValueError(f"codebook: expected 1 to 256 values in one dimension, got shape {codebook.shape}")
    if not np.isfinite(codebook).all():
        raise ValueError("codebook: expected finite values, got NaN or infinity; look for diverged weights")
    if codebook[0] != 0:
        raise ValueError(f"codebook: expected 0.0 for code 0, the pruned weights, got {codebook[0]}")
    if int(codes.max()) >= len(codebook):
        raise ValueError(f"codes: expected values below the codebook's size {len(codebook)}, got {codes.max()}")


def encode(codes: np.ndarray, codebook: np.ndarray, *, gap_bits: int | None = None) -> bytes:
    """Packs a coded matrix.

    Args:
        codes: (rows, cols) uint8, rows being the layer's outputs; code 0 marks a pruned weight.
        codebook: (size,) float32, size 1 to 256, ``codebook[0] == 0``.
        gap_bits: bits of one gap, 4 to 8; by default the width that needs the fewest bytes.

    Returns:
        The packed buffer; ``decode(encode(codes, codebook))`` gives both back, bit for bit.

    Raises:
        ValueError: the arrays are not of these shapes, types or ranges.

    Example:
        >>> import numpy as np
        >>> packed = encode(np.array([[0, 1], [2, 0]], np.uint8), np.array([0, 0.5, -1], np.float32))
        >>> to_dense(packed).tolist()
        [[0.0, 0.5], [-1.0, 0.0]]
    """
    codes, codebook = np.asarray(codes), np.asarray(codebook, np.float32)
    _check_input(codes, codebook)
    if gap_bits is not None and gap_bits not in GAP_BITS:
        raise ValueError(f"gap_bits: expected {GAP_BITS.start} to {GAP_BITS.stop - 1}, got {gap_bits}")
    code_bits = max(CODE_BITS.start, int(len(codebook) - 1).bit_length())
    zero_runs = _zero_runs(codes)
    gap_bits = gap_bits or best_gap_bits(zero_runs, code_bits)
    gaps, entry_codes = _entries(codes, zero_runs, gap_bits)
    body = codebook[1:].astype("<f4").tobytes() + pack_bits(gaps, gap_bits) + pack_bits(entry_codes, code_bits)
    num_bytes = HEADER.size + len(body)
    if num_bytes > MAX_WEIGHTS:
        raise ValueError(f"codes: the packed buffer would need {num_bytes} bytes, over the format's 4 GiB")
    counts = (*codes.shape, len(gaps), len(zero_runs), len(codebook), num_bytes)
    head = HEADER.pack(MAGIC, VERSION, gap_bits, code_bits, 0, *counts, 0)
    crc = zlib.crc32(body, zlib.crc32(head))
    return head[:CRC_OFFSET] + struct.pack("<I", crc) + body


def read_header(packed: Buffer) -> Header:
    """Reads and checks the head of a packed buffer, in constant time (no checksum).

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        The header; its sizes are consistent with each other and with the buffer's length.

    Raises:
        FormatError: not a packed buffer, another version, or impossible sizes; an array of another shape or type.
        TypeError: not bytes at all.
    """
    data = _as_bytes(packed)
    if len(data) < HEADER.size:
        raise FormatError(f"packed weights: expected at least {HEADER.size} bytes, got {len(data)}: truncated")
    magic, version, gap_bits, code_bits, reserved, *counts, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"packed weights: expected the magic {MAGIC!r}, got {magic!r}: not packed by keras_prune")
    if version != VERSION:
        raise FormatError(
            f"packed weights: expected format version {VERSION}, got {version}; install a keras_prune that reads it"
        )
    header = Header(gap_bits, code_bits, *counts)
    if reserved != 0 or not _is_consistent(header) or header.num_bytes != len(data):
        raise FormatError(f"packed weights: sizes that contradict each other in {len(data)} bytes: {header}")
    return header


def as_array(packed: Buffer) -> np.ndarray:
    """A packed buffer as a uint8 array of one dimension, its content not checked.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        (num_bytes,) uint8, in the same memory.

    Raises:
        FormatError: an array or memoryview of another shape or type.
        TypeError: not bytes at all.
    """
    if not isinstance(packed, bytes | bytearray | memoryview | np.ndarray):
        raise TypeError(f"packed weights: expected bytes or a uint8 array, got {type(packed).__name__}")
    array = packed if isinstance(packed, np.ndarray) else np.asarray(memoryview(packed))
    if array.dtype != np.uint8 or array.ndim != 1:
        raise FormatError(
            f"packed weights: expected shape (num_bytes,) and type uint8, got {array.shape} and {array.dtype}; pass "
            "what encode or pack_weights returned"
        )
    return array


def _as_bytes(packed: Buffer) -> bytes:
    return packed if isinstance(packed, bytes) else as_array(packed).tobytes()


def _is_consistent(header: Header) -> bool:
    weights = header.rows * header.cols
    return (
        header.gap_bits in GAP_BITS
        and header.code_bits in CODE_BITS
        and 0 < weights <= MAX_WEIGHTS
        and max(header.rows, header.cols) <= MAX_SIDE
        and header.num_kept <= header.num_entries <= weights
        and 1 <= header.codebook_size <= 1 << header.code_bits
        and header.num_bytes == HEADER.size + header.codebook_bytes + header.gap_bytes + header.code_bytes
    )


def decode(packed: Buffer) -> tuple[np.ndarray, np.ndarray]:
    """Unpacks a buffer, checking every rule of the format.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        ``(codes, codebook)``: (rows, cols) uint8 and (size,) float32.

    Raises:
        FormatError: truncated, corrupt, of another version, or not in canonical form; an array of another shape or
            type.
        TypeError: not bytes at all.
    """
    header, codebook, positions, entry_codes = _entries_of(_as_bytes(packed))
    codes = np.zeros(header.rows * header.cols, np.uint8)
    codes[positions] = entry_codes
    return codes.reshape(header.rows, header.cols), codebook.astype(np.float32)


def check(packed: Buffer) -> Header:
    """Checks every rule of the format as `decode` does, in time and memory that follow the buffer's length alone.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        The header.

    Raises:
        FormatError: truncated, corrupt, of another version, or not in canonical form; an array of another shape or
            type.
        TypeError: not bytes at all.
    """
    return _entries_of(_as_bytes(packed))[0]


def _entries_of(data: bytes) -> tuple[Header, np.ndarray, np.ndarray, np.ndarray]:
    """The header, the codebook, and the entries' positions and codes, everything checked."""
    header = read_header(data)
    body = memoryview(data)[HEADER.size :]
    expected = struct.unpack_from("<I", data, CRC_OFFSET)[0]
    if zlib.crc32(body, zlib.crc32(data[:CRC_OFFSET] + bytes(4))) != expected:
        raise FormatError("packed weights: the checksum does not match; the buffer is corrupt, export it again")
    codebook = np.concatenate([np.zeros(1, "<f4"), np.frombuffer(body[: header.codebook_bytes], "<f4")])
    gaps_end = header.codebook_bytes + header.gap_bytes
    gaps = unpack_bits(body[header.codebook_bytes : gaps_end], header.num_entries, header.gap_bits)
    entry_codes = unpack_bits(body[gaps_end:], header.num_entries, header.code_bits)
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    _check_entries(header, codebook, gaps=gaps, codes=entry_codes, positions=positions)
    return header, codebook, positions, entry_codes


def _check_entries(
    header: Header, codebook: np.ndarray, *, gaps: np.ndarray, codes: np.ndarray, positions: np.ndarray
) -> None:
    fillers = codes == 0
    checks = {
        "a codebook value is not finite": np.isfinite(codebook).all(),
        "an entry lies past the end of the matrix": not len(gaps) or positions[-1] < header.rows * header.cols,
        "a code exceeds the codebook": not len(codes) or int(codes.max()) < header.codebook_size,
        "the count of kept weights is wrong": int((~fillers).sum()) == header.num_kept,
        "a filler does not bridge the largest gap": (gaps[fillers] == (1 << header.gap_bits) - 1).all(),
        "the last entry is a filler": not len(codes) or codes[-1] != 0,
    }
    for problem, holds in checks.items():
        if not holds:
            raise FormatError(f"packed weights: {problem}; the buffer was not made by keras_prune")


def to_dense(packed: Buffer) -> np.ndarray:
    """The matrix that a packed buffer stands for, (rows, cols) float32; raises as `decode` does."""
    codes, codebook = decode(packed)
    return codebook[codes]
