"""Writes the fuzz targets' first inputs from the golden files: ``make_seeds.py golden_folder target_folder``.

Standard library only. A target's inputs are described in its source.
"""

from __future__ import annotations

import pathlib
import struct
import sys
import zlib

SCALE = struct.pack("<f", 0.01)  # one step of x


def sealed(options: bytes) -> bytes:
    """Options and their checksum."""
    return options + zlib.crc32(options).to_bytes(4, "little")


OPTIONS = sealed(bytes([1, 0, 0, 0]))
INT8 = sealed(bytes([1, 0, 0, 1]))  # each row of x with a step of its own
STATIC = bytes([2, 0]) + zlib.crc32(bytes([2, 0]) + SCALE).to_bytes(4, "little")[:2] + SCALE
# Of convolutions: 1 x 1, no steps.
CONVOLUTIONS = [
    sealed(bytes([1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])),
    sealed(bytes([1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0])),
    sealed(bytes([2, 0, 1, 1, 1, 1, 1, 1]) + SCALE),
]
TYPES = {0: 1, 1: 10, 2: 9, 3: 3}  # of version 2's elements, as the runtime numbers them


def sizes(packed: bytes) -> tuple[int, int]:
    """Rows and columns, which both versions have at the same place."""
    rows, cols = struct.unpack_from("<II", packed, 8)
    return rows, cols


def convolution(packed: bytes, options: bytes) -> bytes:
    """An input of delegate_fuzz: one convolution, of an image of 3 x 3 pixels."""
    head = struct.pack("<6BH", 64, 0, 0x13, 15, 15, 16, 0) + struct.pack("<8b", 1, 2, 3, 4, 0, 2, 4, 5) + options
    rows, cols = sizes(packed)
    return head + bytes([4, 2, 1, 4]) + struct.pack("<7i", 3, cols, 1, 3, rows, 3, rows) + packed


def graph(unpacked: bytes, multiplied: bytes, options: bytes = OPTIONS) -> bytes:
    """An input of delegate_fuzz: one operator of each kind, either left out where its bytes are empty."""
    flags = (1 if unpacked else 0) | (2 if multiplied else 0)
    other_type = 3 | TYPES[unpacked[7] % 4] << 4 if unpacked else 15
    head = struct.pack("<6BH", flags, 0x11, 0x13, other_type, 15, 8, len(unpacked))
    head += struct.pack("<8b", 1, 2, 3, 4, 0, 2, 4, 5) + OPTIONS + options + bytes([2, 2, 1, 2])
    rows, cols = sizes(multiplied) if multiplied else (1, 1)
    head += struct.pack("<7I", 2, cols, *(sizes(unpacked) if unpacked else (1, 1)), rows, 2, rows)
    return head + unpacked + multiplied


def call(packed: bytes, *, transpose: bool, arithmetic: int = 0, batch: int = 4) -> bytes:
    """An input of tf_op_fuzz; the arithmetic is 0 for float32, 8 for int8, 8 | 32 with one step of x."""
    rows, cols = sizes(packed)
    known = (rows, cols) if max(rows, cols) < 1 << 15 else (-1, -1)
    flags = transpose | 2 | arithmetic
    return struct.pack("<BBBBiIhh", flags, 2, 1, 4, batch, rows if transpose else cols, *known) + packed


def seeds(golden: pathlib.Path) -> dict[str, list[bytes]]:
    """The inputs of each target."""
    packed = [path.read_bytes() for path in sorted(golden.glob("*.packed"))]
    packed = [data for data in packed if sizes(data)[0] * sizes(data)[1] < 1 << 20]
    one, two = ([data for data in packed if data[4] == version] for version in (1, 2))
    refused = [bytes.fromhex(line.split()[1]) for line in (golden / "tensor_refused.txt").read_text().splitlines()]
    tensors = two + [data for data in refused if len(data) >= 36]
    codebooks = [data for data in tensors if data[6] == 0]
    return {
        "sparse_format": one,
        "tensor_format": tensors,
        "delegate": [graph(data, b"") for data in two]
        + [graph(b"", data, options) for data in one + codebooks for options in (OPTIONS, INT8, STATIC)]
        + [convolution(data, options) for data in two if data[6] == 0 for options in CONVOLUTIONS]
        + [graph(first, second) for first, second in zip(two, one + codebooks, strict=False)],
        "tf_op": [call(data, transpose=transpose) for data in one + codebooks for transpose in (False, True)]
        + [
            call(data, transpose=False, arithmetic=arithmetic, batch=batch)
            for data in one + codebooks
            for arithmetic in (8, 8 | 32)
            for batch in (2, 17)
        ],
    }


def main() -> None:
    """Writes one folder for each target."""
    golden, target = map(pathlib.Path, sys.argv[1:])
    for name, inputs in seeds(golden).items():
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (folder / f"seed{number:03}").write_bytes(data)


if __name__ == "__main__":
    main()
