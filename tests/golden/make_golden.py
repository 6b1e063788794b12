"""Makes the golden files of the storage format that the Python and the C++ tests share.

Run once when the format's version changes (and then keep the old files: a reader must still read them)::

    python tests/golden/make_golden.py
"""

from __future__ import annotations

import pathlib
import zlib

import numpy as np

from keras_prune import sparse_format

FOLDER = pathlib.Path(__file__).resolve().parent


def _place(shape: tuple[int, int], positions: dict[int, int]) -> np.ndarray:
    codes = np.zeros(shape[0] * shape[1], np.uint8)
    for position, code in positions.items():
        codes[position] = code
    return codes.reshape(shape)


def _random(shape: tuple[int, int], density: float, size: int) -> np.ndarray:
    rng = np.random.default_rng(20160215)
    return (rng.integers(1, size, shape) * (rng.random(shape) < density)).astype(np.uint8)


def _codebook(size: int) -> np.ndarray:
    """Zero, then values of both signs that are exact in float32."""
    steps = np.arange(1, size, dtype=np.float32)
    return np.concatenate([[0], steps / 8 * np.where(steps % 2, 1, -1)]).astype(np.float32)


# name: codes, size of the codebook, gap bits (None: the best)
CASES: dict[str, tuple[np.ndarray, int, int | None]] = {
    "tiny": (_place((2, 3), {1: 1, 5: 2}), 3, None),
    "all_pruned": (_place((3, 5), {}), 4, None),
    "nothing_pruned": (_random((7, 9), 1.0, 16), 16, None),
    "one_survivor_first": (_place((4, 300), {0: 3}), 4, None),
    "one_survivor_last": (_place((4, 300), {1199: 3}), 4, None),
    "one_row": (_random((1, 517), 0.06, 16), 16, None),
    "one_column": (_random((517, 1), 0.06, 16), 16, None),
    "gap_at_the_limit": (_place((2, 40), {15: 1, 31: 2}), 3, 4),  # 15 zeros before each: the largest gap
    "gap_one_past": (_place((2, 40), {16: 1, 33: 2}), 3, 4),  # 16 zeros: a filler each
    "many_fillers": (_place((5, 100), {99: 1, 499: 2}), 3, 4),
    "codebook_256": (_random((20, 30), 0.3, 256), 256, 5),
    "eight_bit_gaps": (_random((12, 400), 0.01, 32), 32, 8),
}


# name: rows, cols, whether the format allows them; a header only, everything pruned
LIMITS: dict[str, tuple[int, int, bool]] = {
    "rows_at_the_limit": (2**31 - 1, 1, True),
    "rows_past_the_limit": (2**31, 1, False),
    "cols_at_the_limit": (2, 2**31 - 1, True),
    "cols_past_the_limit": (1, 2**31, False),
}


def _header(rows: int, cols: int) -> bytes:
    fields = (sparse_format.MAGIC, sparse_format.VERSION, 4, 2, 0, rows, cols, 0, 0, 1, sparse_format.HEADER.size)
    head = sparse_format.HEADER.pack(*fields, 0)
    return sparse_format.HEADER.pack(*fields, zlib.crc32(head))


def main() -> None:
    """Writes <name>.packed, <name>.dense (float32, row-major, little-endian) and the lists of both kinds."""
    lines = []
    for name, (codes, size, gap_bits) in CASES.items():
        packed = sparse_format.encode(codes, _codebook(size), gap_bits=gap_bits)
        header = sparse_format.read_header(packed)
        (FOLDER / f"{name}.packed").write_bytes(packed)
        (FOLDER / f"{name}.dense").write_bytes(_codebook(size)[codes].astype("<f4").tobytes())
        counts = (header.rows, header.cols, header.gap_bits, header.code_bits, header.num_entries, header.num_kept)
        lines.append(" ".join([name, *map(str, counts)]))
    (FOLDER / "manifest.txt").write_text("\n".join(lines) + "\n")
    for name, (rows, cols, _) in LIMITS.items():
        (FOLDER / f"{name}.packed").write_bytes(_header(rows, cols))
    verdicts = [f"{name} {'allowed' if allowed else 'refused'}" for name, (_, _, allowed) in LIMITS.items()]
    (FOLDER / "limits.txt").write_text("\n".join(verdicts) + "\n")


if __name__ == "__main__":
    main()
