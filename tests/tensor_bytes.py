"""Version 2 buffers written by hand from docs/format.md, and every way to break its rules with a right checksum."""

from __future__ import annotations

import struct

from packed_bytes import seal  # type: ignore[import-not-found]

KINDS = {"all": 0, "gaps": 1, "bitmap": 2, "codebook": 0, "scaled": 1, "split": 2}
ELEMENTS = {"float32": 0, "float16": 1, "int8": 2, "uint8": 3}
FIELDS = {"rows": 2, "cols": 3, "block_rows": 1, "block_cols": 1, "num_units": 2}
FIELDS |= {"escape": 7, "fill": 0, "codebook_size": 3}


def tensor(kinds: str, body: bytes, **fields: int) -> bytes:
    """A buffer, its length and checksum right; ``kinds`` as in "gaps codebook float32", fields as in FIELDS."""
    positions, values, element = kinds.split()
    f = FIELDS | fields
    head = struct.pack("<4sBBBB", b"KPRI", 2, KINDS[positions], KINDS[values], ELEMENTS[element])
    head += struct.pack("<IIHHI", f["rows"], f["cols"], f["block_rows"], f["block_cols"], f["num_units"])
    head += struct.pack("<BBHII", f["escape"], f["fill"], f["codebook_size"], 36 + len(body), 0)
    return seal(head + body)


def fixed(bits: int, num_symbols: int, packed: str) -> bytes:
    """A stream of fixed width, its bits in hexadecimal."""
    return struct.pack("<BBI", 0, bits, num_symbols) + bytes.fromhex(packed)


def rans(num_symbols: int, table: str, states: list[int], *, lane_bits: int = 0, words: str = "") -> bytes:
    """A rANS stream: the table (its first byte the largest symbol) and the words in hexadecimal."""
    head = struct.pack("<BBI", 1, lane_bits, num_symbols) + bytes.fromhex(table)
    raw = bytes.fromhex(words)
    return head + struct.pack("<I", len(raw) // 2) + struct.pack(f"<{len(states)}I", *states) + raw


# 2 x 3, code 1 at position 1, code 2 at position 5; codebook 0, 1/8, -1/4.
BOOK = struct.pack("<2f", 0.125, -0.25)
GAPS = fixed(2, 2, "0d")  # 1 and 3
CODES = fixed(2, 2, "09")  # 1 and 2
TINY = tensor("gaps codebook float32", BOOK + GAPS + CODES)

# The same two codes by rANS, one lane: both have the frequency 2^13 and the symbol 0 has none. The encoder codes 2
# first: 65536 -> (65536 / 8192 << 14) + 65536 % 8192 + 8192 = 139264; then 1: (139264 / 8192 << 14) + 139264 % 8192 + 0
# = 278528. No state reaches 8192 << 18, so there are no words.
HALVES = "02 00 8040 8040"
CODES_RANS = rans(2, HALVES, [278528])
TINY_RANS = tensor("gaps codebook float32", BOOK + GAPS + CODES_RANS)

CUT_BLOCK = {"num_units": 1, "escape": 0, "block_rows": 2, "block_cols": 2}  # the second unit: two weights
BITMAP = fixed(6, 1, "22")  # bits 1 and 5
TINY_BITMAP = tensor("bitmap codebook float32", BOOK + BITMAP + CODES, escape=0)


def _gaps(stream: bytes, **fields: int) -> bytes:
    return tensor("gaps codebook float32", BOOK + stream + CODES, **fields)


def _codes(stream: bytes) -> bytes:
    return tensor("gaps codebook float32", BOOK + GAPS + stream)


def _header(at: int, value: bytes) -> bytes:
    return seal(TINY[:at] + value + TINY[at + len(value) :])


def _scaled(scales: list[float]) -> bytes:
    body = struct.pack(f"<{len(scales)}f", *scales) + GAPS + fixed(8, 2, "01ff")
    return tensor("gaps scaled float32", body, codebook_size=0)


# name: buffer, what the message says
REFUSED: dict[str, tuple[bytes, str]] = {
    "magic": (_header(0, b"KPRJ"), "magic"),
    "version 0": (_header(4, b"\0"), "format version 2, got 0"),
    "version 1": (_header(4, b"\1"), "format version 2, got 1"),
    "version 3": (_header(4, b"\3"), "format version 2, got 3"),
    "positions 3": (_header(5, b"\3"), "kinds"),
    "values 3": (_header(6, b"\3"), "kinds"),
    "element 4": (_header(7, b"\4"), "kinds"),
    "a codebook of float16": (_header(7, b"\1"), "sizes"),
    "no rows": (_header(8, bytes(4)), "sizes"),
    "no columns": (_header(12, bytes(4)), "sizes"),
    "too many rows": (_header(8, struct.pack("<II", 2**31, 1)), "sizes"),
    "too many weights": (_header(8, struct.pack("<II", 2**16, 2**16)), "sizes"),
    "no block rows": (_header(16, bytes(2)), "sizes"),
    "no block columns": (_header(18, bytes(2)), "sizes"),
    "block rows past the rows": (_header(16, b"\3\0"), "sizes"),
    "block columns past the columns": (_header(18, b"\4\0"), "sizes"),
    "more kept units than units": (_header(20, b"\7"), "sizes"),
    "more kept units than gaps": (_header(20, b"\3"), "sizes"),
    "gaps without an escape": (_header(24, b"\0"), "sizes"),
    "a codebook with a fill": (_header(25, b"\1"), "sizes"),
    "a codebook of nothing": (_header(26, b"\0\0"), "sizes"),
    "a codebook of 257": (_header(26, b"\1\1"), "sizes"),
    "another length": (_header(28, struct.pack("<I", len(TINY) - 1)), "sizes"),
    "a byte more": (seal(TINY[:28] + struct.pack("<I", len(TINY) + 1) + TINY[32:] + b"\0"), "sizes"),
    "all, but not all units": (tensor("all codebook float32", BOOK + CODES, escape=0), "sizes"),
    "all with an escape": (tensor("all codebook float32", BOOK + fixed(2, 6, "1908"), num_units=6), "sizes"),
    "a bitmap with an escape": (tensor("bitmap codebook float32", BOOK + BITMAP + CODES), "sizes"),
    "scaled with a codebook": (tensor("gaps scaled float32", BOOK + GAPS + fixed(8, 2, "01ff")), "sizes"),
    "float32 with a fill": (
        tensor("gaps split float32", GAPS + fixed(8, 2, "7f7f") + bytes(6), fill=1, codebook_size=0),
        "sizes",
    ),
    "table past the end": (tensor("gaps codebook float32", BOOK, codebook_size=4), "truncated|sizes"),
    "table alone": (tensor("gaps codebook float32", BOOK), "truncated"),
    "no symbols": (tensor("gaps codebook float32", BOOK + GAPS), "truncated"),
    "NaN": (tensor("gaps codebook float32", struct.pack("<2f", float("nan"), 1) + GAPS + CODES), "not finite"),
    "infinity": (tensor("gaps codebook float32", struct.pack("<2f", 1, float("-inf")) + GAPS + CODES), "not finite"),
    "an infinite scale": (_scaled([1, float("inf")]), "not finite"),
    "a negative scale": (_scaled([1, -1]), "negative"),
    "a scale of -0.0": (_scaled([-0.0, 1]), "negative"),
    "a scale too few": (_scaled([1]), "stream|sizes|truncated"),
    "split without low bytes": (tensor("gaps split float32", GAPS + fixed(8, 2, "7f7f"), codebook_size=0), "sizes"),
    "low bytes of int8": (
        tensor("gaps split int8", GAPS + fixed(8, 2, "7f7f") + bytes(2), codebook_size=0),
        "sizes",
    ),
    # positions
    "a gap past its escape": (_gaps(GAPS, escape=2), "exceeds its escape"),
    "past the end": (_gaps(fixed(3, 2, "21")), "past the end"),
    "escapes past the end": (_gaps(fixed(3, 4, "ff01"), escape=7), "past the end"),
    "an escape at the end": (_gaps(fixed(2, 3, "31"), escape=3), "an escape ends the gaps"),
    "fewer kept units than said": (_gaps(fixed(2, 2, "07"), escape=3), "count of kept units"),
    "more kept units than said": (_gaps(fixed(1, 3, "00")), "count of kept units"),
    "more gaps than units": (_gaps(fixed(0, 7, "")), "sizes"),
    "gaps of nothing": (
        tensor("gaps codebook float32", BOOK + fixed(1, 1, "00") + fixed(0, 0, ""), num_units=0),
        "sizes",
    ),
    "a bitmap too short": (
        tensor("bitmap codebook float32", BOOK + fixed(0, 0, "") + CODES, escape=0),
        "sizes",
    ),
    "a bitmap too long": (
        tensor("bitmap codebook float32", BOOK + fixed(8, 2, "2200") + CODES, escape=0),
        "sizes",
    ),
    "padding of a bitmap": (
        tensor("bitmap codebook float32", BOOK + fixed(7, 1, "42") + CODES, escape=0),
        "padding bits of a bitmap",
    ),
    "a bit too many": (
        tensor("bitmap codebook float32", BOOK + fixed(6, 1, "23") + CODES, escape=0),
        "count of kept units",
    ),
    # symbols
    "a code past the codebook": (_codes(fixed(2, 2, "0d")), "exceeds the codebook"),
    "a code too many": (_codes(fixed(2, 3, "09")), "sizes"),
    "a code too few": (_codes(fixed(2, 1, "01")), "sizes"),
    "a value too many in a cut block": (
        tensor("bitmap codebook float32", BOOK + fixed(2, 1, "02") + fixed(2, 4, "55"), **CUT_BLOCK),
        "count of values",
    ),
    # streams
    "coder 2": (_codes(struct.pack("<BBI", 2, 2, 2) + b"\x09"), "coder 2"),
    "nine bits": (_codes(struct.pack("<BBI", 0, 9, 2) + bytes(3)), "coder 0"),
    "padding": (_codes(fixed(2, 2, "19")), "padding"),
    "nothing in some bits": (
        tensor("gaps codebook float32", BOOK + fixed(1, 0, "") + fixed(0, 0, ""), num_units=0),
        "coder 0",
    ),
    "nothing by rANS": (
        tensor("gaps codebook float32", BOOK + fixed(0, 0, "") + rans(0, HALVES, [65536]), num_units=0),
        "coder 1",
    ),
    "128 lanes": (_codes(rans(2, HALVES, [278528] + [65536] * 127, lane_bits=7)), "coder 1"),
    "frequencies that sum to less": (_codes(rans(2, "02 00 8040 ff3f", [278528])), "sum to"),
    "frequencies that sum to more": (_codes(rans(2, "02 00 8040 8140", [278528])), "sum to"),
    "a last frequency of 0": (_codes(rans(2, "03 00 8040 8040 00", [278528])), "sum to"),
    "a long form": (_codes(rans(2, "02 00 8040 80c000", [278528])), "shortest form"),
    "a long zero": (_codes(rans(2, "02 8000 8040 8040", [278528])), "shortest form"),
    "a frequency of four bytes": (_codes(rans(2, "02 00 8040 80c08000", [278528])), "shortest form"),
    "a table cut off": (_codes(struct.pack("<BBI", 1, 0, 2) + b"\x02\x00\x80"), "truncated"),
    "a small state": (_codes(rans(2, HALVES, [65535])), "state is too small"),
    "a state of a lane without symbols": (
        _codes(rans(2, HALVES, [131072, 139264, 65537, 65536], lane_bits=2)),
        "does not end where it should",
    ),
    "another state": (_codes(rans(2, HALVES, [278529])), "does not end|needs more words"),
    "a word too many": (_codes(rans(2, HALVES, [278528], words="0000")), "does not end where it should"),
    "more words than symbols": (_codes(rans(2, HALVES, [278528], words="0000 0000 0000")), "3 words for 2 symbols"),
    "a word too few": (_codes(rans(2, HALVES, [65536])), "needs more words"),
    "words past the end": (_codes(rans(2, HALVES, [278528]).replace(bytes(4), b"\x01\0\0\0")), "truncated"),
    "a state that moves under one symbol": (_codes(rans(2, "01 00 808001", [65537])), "does not end where it should"),
}
