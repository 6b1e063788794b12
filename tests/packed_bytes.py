"""Packed bytes written by hand, and every way to break the format's rules while the checksum stays right."""

from __future__ import annotations

import struct
import zlib

# Written by hand from docs/format.md: 2 x 3, code 1 at position 1, code 2 at position 5; codebook 0, 1/8, -1/4.
TINY = bytes.fromhex(
    "4b505249 01040200 02000000 03000000 02000000 02000000 03000000 2e000000 b5d2de11"  # header
    "0000003e 000080be"  # codebook from code 1 on
    "31"  # gaps 1 and 3, four bits each
    "09"  # codes 1 and 2, two bits each
)


def seal(packed: bytes) -> bytes:
    """Makes the checksum right again after bytes were changed."""
    crc = zlib.crc32(packed[:32] + bytes(4) + packed[36:])
    return packed[:32] + struct.pack("<I", crc) + packed[36:]


def changed(packed: bytes, at: int, value: bytes) -> bytes:
    return seal(packed[:at] + value + packed[at + len(value) :])


REFUSED = {
    "magic": (0, b"KPRJ", "magic"),
    "version": (4, b"\2", "format version 1, got 2"),
    "gap bits 3": (5, b"\3", "sizes"),
    "gap bits 9": (5, b"\11", "sizes"),
    "code bits 1": (6, b"\1", "sizes"),
    "code bits 9": (6, b"\11", "sizes"),
    "reserved": (7, b"\1", "sizes"),
    "no rows": (8, bytes(4), "sizes"),
    "no columns": (12, bytes(4), "sizes"),
    "too many weights": (8, struct.pack("<II", 2**16, 2**16), "sizes"),
    "entries past the weights": (16, struct.pack("<I", 7), "sizes"),
    "kept past the entries": (20, struct.pack("<I", 3), "sizes"),
    "kept below the codes": (20, struct.pack("<I", 1), "count of kept weights"),
    "no codebook": (24, bytes(4), "sizes"),
    "codebook past the code bits": (24, struct.pack("<I", 5), "sizes"),
    "another length": (28, struct.pack("<I", 45), "sizes"),
    "NaN": (36, struct.pack("<f", float("nan")), "not finite"),
    "infinity": (40, struct.pack("<f", float("-inf")), "not finite"),
    "past the end": (44, b"\x41", "past the end"),
    "code past the codebook": (45, b"\x0d", "exceeds the codebook"),
    "a filler with a small gap": (45, b"\x08", "count of kept|filler"),
    "padding": (45, b"\x19", "padding"),
}


def refused_bytes(what: str) -> bytes:
    """TINY with one rule broken."""
    at, value, _ = REFUSED[what]
    return changed(TINY, at, value)
