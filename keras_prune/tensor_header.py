"""The head of a version 2 buffer: what it says of itself, read and checked before anything is decoded. NumPy only."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np

from keras_prune import entropy_coding
from keras_prune.sparse_format import CRC_OFFSET, MAGIC, MAX_SIDE, MAX_WEIGHTS, Buffer, FormatError, as_array
from keras_prune.unit_grid import UnitGrid

VERSION = 2
HEADER = struct.Struct("<4sBBBBIIHHIBBHII")
POSITIONS = ("all", "gaps", "bitmap")
VALUES = ("codebook", "scaled", "split")
ELEMENTS = ("float32", "float16", "int8", "uint8")
LOW_BYTES = {"float32": 3, "float16": 1, "int8": 0, "uint8": 0}  # of a split value, beside its symbol


@dataclasses.dataclass(frozen=True)
class TensorHeader:
    """What a buffer says of itself before anything is decoded.

    Attributes:
        positions: how kept units are found: "all", "gaps" or "bitmap".
        values: what a symbol is: "codebook", "scaled" or "split".
        element: the stored type of a weight: "float32", "float16", "int8" or "uint8".
        rows: of the matrix, at most 2^31 - 1.
        cols: likewise.
        block_rows: rows of a unit.
        block_cols: columns of a unit.
        num_units: kept units.
        escape: the gap symbol that keeps nothing; 0 without gaps.
        fill: the byte of a pruned int8 or uint8 weight.
        codebook_size: values in the codebook, the zero of code 0 included; 0 without codebook.
        num_bytes: size of the whole buffer.
        num_values: stored weights: all those of kept units.
        table_bytes: bytes of the codebook or of the scales.
        position_bytes: bytes of the gaps or the bitmap.
        symbol_bytes: bytes of the symbols.
        low_bytes: bytes of the floats' low parts.
    """

    positions: str
    values: str
    element: str
    rows: int
    cols: int
    block_rows: int
    block_cols: int
    num_units: int
    escape: int
    fill: int
    codebook_size: int
    num_bytes: int
    num_values: int
    table_bytes: int
    position_bytes: int
    symbol_bytes: int
    low_bytes: int

    @property
    def header_bytes(self) -> int:
        """Bytes of the fixed-size head."""
        return HEADER.size

    @property
    def grid(self) -> UnitGrid:
        """The units of the matrix."""
        return UnitGrid(self.rows, self.cols, self.block_rows, self.block_cols)


def read_header(packed: Buffer) -> TensorHeader:
    """Reads and checks the head of a packed buffer and of its streams; decodes nothing, no checksum.

    Args:
        packed: the buffer: bytes, bytearray, memoryview, or (num_bytes,) uint8.

    Returns:
        The header; its sizes are consistent with each other and with the buffer's length.

    Raises:
        FormatError: not a packed buffer, another version, or impossible sizes; an array of another shape or type.
        TypeError: not bytes at all.
    """
    data = np.ascontiguousarray(as_array(packed)).data
    if len(data) < HEADER.size:
        raise FormatError(f"packed weights: expected at least {HEADER.size} bytes, got {len(data)}: truncated")
    magic, version, *kinds = HEADER.unpack_from(data)[:5]
    if magic != MAGIC:
        raise FormatError(f"packed weights: expected the magic {MAGIC!r}, got {magic!r}: not packed by keras_prune")
    if version != VERSION:
        raise FormatError(
            f"packed weights: expected format version {VERSION}, got {version}; version 1 is read by sparse_format, "
            "later ones by a later keras_prune"
        )
    names = (POSITIONS, VALUES, ELEMENTS)
    if any(kind >= len(known) for kind, known in zip(kinds, names, strict=True)):
        raise FormatError(f"packed weights: kinds {kinds} that version {VERSION} does not have; the buffer is corrupt")
    positions, values, element = (known[kind] for kind, known in zip(kinds, names, strict=True))
    return _with_sections(data, positions, values=values, element=element)


def _with_sections(data: memoryview, positions: str, *, values: str, element: str) -> TensorHeader:
    """The header, the sections' sizes found and checked."""
    fields = HEADER.unpack_from(data)[5:-1]
    names = "rows cols block_rows block_cols num_units escape fill codebook_size num_bytes".split()
    sizes = dict.fromkeys("num_values table_bytes position_bytes symbol_bytes low_bytes".split(), 0)
    known = dict(zip(names, fields, strict=True)) | sizes
    header = TensorHeader(positions=positions, values=values, element=element, **known)
    if not _is_consistent(header) or header.num_bytes != len(data):
        raise _contradiction(header, len(data))
    header = dataclasses.replace(header, table_bytes=_table_bytes(header))
    rest = data[HEADER.size + header.table_bytes :]
    if positions != "all":
        stream = entropy_coding.read(rest)
        if stream.num_symbols not in _symbols_of_positions(header):
            raise _contradiction(header, len(data))
        header = dataclasses.replace(header, position_bytes=stream.num_bytes)
        rest = rest[stream.num_bytes :]
    stream = entropy_coding.read(rest)
    low_bytes = LOW_BYTES[element] * stream.num_symbols if values == "split" else 0
    header = dataclasses.replace(
        header, num_values=stream.num_symbols, symbol_bytes=stream.num_bytes, low_bytes=low_bytes
    )
    if stream.num_bytes + low_bytes != len(rest) or stream.num_symbols not in _values_of_units(header):
        raise _contradiction(header, len(data))
    return header


def _table_bytes(header: TensorHeader) -> int:
    if header.values == "codebook":
        return 4 * (header.codebook_size - 1)
    return 4 * header.rows if header.values == "scaled" else 0


def _values_of_units(header: TensorHeader) -> range:
    """How many values the kept units may hold; which it is shows when their positions are known."""
    weights = header.rows * header.cols
    if header.positions == "all":
        return range(weights, weights + 1)
    return range(header.num_units, min(header.num_units * header.block_rows * header.block_cols, weights) + 1)


def _contradiction(header: TensorHeader, length: int) -> FormatError:
    return FormatError(f"packed weights: sizes that contradict each other in {length} bytes: {header}")


def _symbols_of_positions(header: TensorHeader) -> range:
    """How many symbols the stream of positions may have."""
    units = header.grid.num_units
    if header.positions == "bitmap":
        return range((units + 7) // 8, (units + 7) // 8 + 1)
    return range(header.num_units, units + 1) if header.num_units else range(1)


def _is_consistent(header: TensorHeader) -> bool:
    weights = header.rows * header.cols
    return (
        0 < weights <= MAX_WEIGHTS
        and max(header.rows, header.cols) <= MAX_SIDE
        and 1 <= header.block_rows <= header.rows
        and 1 <= header.block_cols <= header.cols
        and header.num_units <= header.grid.num_units
        and (header.positions != "all" or header.num_units == header.grid.num_units)
        and (header.escape > 0) == (header.positions == "gaps")
        and (header.fill == 0 or (header.values == "split" and header.element in ("int8", "uint8")))
        and (header.element == "float32" or header.values == "split")
        and (1 <= header.codebook_size <= 256 if header.values == "codebook" else header.codebook_size == 0)
    )


def checked_header(data: memoryview) -> TensorHeader:
    """As `read_header`, and the checksum and the table are right."""
    header = read_header(data)
    expected = struct.unpack_from("<I", data, CRC_OFFSET)[0]
    body = data[HEADER.size :]
    if zlib.crc32(body, zlib.crc32(bytes(4), zlib.crc32(data[:CRC_OFFSET]))) != expected:
        raise FormatError("packed weights: the checksum does not match; the buffer is corrupt, export it again")
    table = table_of(header, data)
    if not np.isfinite(table).all() or (header.values == "scaled" and np.signbit(table).any()):
        raise FormatError("packed weights: a value of the table is not finite, or a scale negative; corrupt")
    return header


def table_of(header: TensorHeader, data: memoryview) -> np.ndarray:
    """The codebook from code 1 on or the scales, float32."""
    return np.frombuffer(data, "<f4", header.table_bytes // 4, HEADER.size).astype(np.float32)
