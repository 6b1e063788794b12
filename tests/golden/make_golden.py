"""Makes the golden files of the storage format that the Python and the C++ tests share.

Run once when the format's version changes (and then keep the old files: a reader must still read them)::

    python tests/golden/make_golden.py
"""

from __future__ import annotations

import pathlib
import sys
import zlib
from collections.abc import Callable

import numpy as np

from keras_prune import sparse_format, tensor_format
from keras_prune.tensor_format import Layout

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # where the tests' modules are
from tensor_bytes import REFUSED  # type: ignore[import-not-found]  # noqa: E402


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


def _noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """uint64 whose high bits look random: a multiplicative hash, the same on every machine and version."""
    index = np.arange(shape[0] * shape[1], dtype=np.uint64) + np.uint64(1000 * seed)
    mixed = index * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)).reshape(shape)


def _mask(shape: tuple[int, int], percent: int, block: tuple[int, int] = (1, 1)) -> np.ndarray:
    blocks = _noise((-(-shape[0] // block[0]), -(-shape[1] // block[1])), 1) >> np.uint64(40)
    kept = blocks % np.uint64(100) < percent
    return np.kron(kept, np.ones(block, bool))[: shape[0], : shape[1]]


def _codes(shape: tuple[int, int], size: int, mask: np.ndarray) -> np.ndarray:
    """Codes of which small ones are more frequent."""
    first, second = (_noise(shape, seed) >> np.uint64(40) for seed in (2, 3))
    return (np.minimum(first, second) % np.uint64(size - 1) + 1).astype(np.uint8) * mask


def _bytes(shape: tuple[int, int], mask: np.ndarray) -> np.ndarray:
    first, second = (_noise(shape, seed) >> np.uint64(58) for seed in (4, 5))
    return (first.astype(np.int64) - second.astype(np.int64)).astype(np.int8) * mask


def _floats(shape: tuple[int, int], mask: np.ndarray) -> np.ndarray:
    """float32 of a few exponents and all mantissas and signs, with infinities, NaNs and a negative zero."""
    bits = _noise(shape, 6) >> np.uint64(32)
    exponents = 115 + (_noise(shape, 7) >> np.uint64(62)) + (_noise(shape, 8) >> np.uint64(62))
    values = (bits & np.uint64(0x807FFFFF) | exponents << np.uint64(23)).astype(np.uint32) * mask
    special = [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFA00000, 0x00000001, 0x7F7FFFFF]
    values.reshape(-1)[1 : 1 + len(special)] = special
    return values.view(np.float32)


def _halves(shape: tuple[int, int], mask: np.ndarray) -> np.ndarray:
    bits = (_noise(shape, 9) >> np.uint64(48) & np.uint64(0x83FF)) + (
        _noise(shape, 10) >> np.uint64(62) << np.uint64(11)
    )
    values = (bits + np.uint64(0x2000)).astype(np.uint16) * mask
    values.reshape(-1)[1:6] = [0x8000, 0x7C00, 0xFC00, 0x7E01, 0x0001]
    return values.view(np.float16)


def _scales(rows: int) -> np.ndarray:
    return ((np.arange(rows) % 7) / 64).astype(np.float32)  # a scale of 0.0 too


def _coded(shape: tuple[int, int], size: int, *, percent: int, layout: Layout, fit: bool = True) -> bytes:
    mask = _mask(shape, percent, layout.block if fit else (1, 1))
    return tensor_format.encode_codes(_codes(shape, size, mask), _codebook(size), layout=layout)


def _scaled(shape: tuple[int, int], percent: int, *, layout: Layout) -> bytes:
    return tensor_format.encode_scaled(
        _bytes(shape, _mask(shape, percent, layout.block)), _scales(shape[0]), layout=layout
    )


Maker = Callable[[tuple[int, int], np.ndarray], np.ndarray]


def _exact(maker: Maker, shape: tuple[int, int], *, percent: int, layout: Layout) -> bytes:
    return tensor_format.encode_exact(maker(shape, _mask(shape, percent, layout.block)), layout=layout)


def _shifted(shape: tuple[int, int], percent: int, *, layout: Layout) -> bytes:
    """uint8 around a zero point of 131."""
    values = (_bytes(shape, _mask(shape, percent, layout.block)).astype(np.int64) + 131).astype(np.uint8)
    return tensor_format.encode_exact(values, fill=131, layout=layout)


def _lanes(bits: int, positions: str = "gaps", *, escape: int = 15, block: tuple[int, int] = (1, 1)) -> Layout:
    escape = escape if positions == "gaps" else 0
    return Layout(positions, block, escape, coder="rans", lane_bits=bits)


def _fixed(positions: str, escape: int = 0, *, block: tuple[int, int] = (1, 1)) -> Layout:
    return Layout(positions, block, escape, coder="fixed")


def _only(shape: tuple[int, int], position: int, layout: Layout) -> bytes:
    return tensor_format.encode_codes(_place(shape, {position: 1}), _codebook(2), layout=layout)


# Version 2. Every kind of positions, values, elements and coders; the sizes leave tails in lanes, blocks and bytes.
TENSORS: dict[str, bytes] = {
    "tensor_codebook_all_fixed": _coded((7, 9), 16, percent=100, layout=_fixed("all")),
    "tensor_codebook_all_rans_1": _coded((23, 31), 16, percent=30, layout=_lanes(0, "all")),
    "tensor_codebook_gaps_fixed": _coded((23, 31), 5, percent=10, layout=_fixed("gaps", 15)),
    "tensor_codebook_gaps_rans_1": _coded((23, 31), 32, percent=10, layout=_lanes(0)),
    "tensor_codebook_gaps_rans_2": _coded((23, 31), 32, percent=10, layout=_lanes(1, escape=3)),
    "tensor_codebook_gaps_rans_4": _coded((29, 67), 32, percent=20, layout=_lanes(2, escape=255)),
    "tensor_codebook_gaps_rans_8": _coded((29, 67), 256, percent=60, layout=_lanes(3, escape=1)),
    "tensor_codebook_gaps_rans_16": _coded((53, 67), 16, percent=30, layout=_lanes(4, escape=31)),
    "tensor_codebook_gaps_rans_32": _coded((53, 67), 64, percent=30, layout=_lanes(5, escape=7)),
    "tensor_codebook_gaps_rans_64": _coded((101, 103), 32, percent=25, layout=_lanes(6, escape=23)),
    "tensor_codebook_bitmap_fixed": _coded((7, 9), 4, percent=50, layout=_fixed("bitmap")),
    "tensor_codebook_bitmap_rans_16": _coded((31, 67), 16, percent=50, layout=_lanes(4, "bitmap")),
    "tensor_codebook_blocks": _coded((22, 37), 16, percent=30, layout=_lanes(2, escape=15, block=(4, 8))),
    "tensor_codebook_blocks_with_zeros": _coded(
        (22, 37), 16, percent=30, layout=_lanes(0, "bitmap", block=(2, 2)), fit=False
    ),
    "tensor_codebook_all_in_blocks": _coded((5, 7), 4, percent=100, layout=_fixed("all", block=(2, 4))),
    "tensor_codebook_long_blocks": _coded((3, 700), 16, percent=50, layout=_fixed("gaps", 3, block=(3, 300))),
    "tensor_all_pruned_gaps": tensor_format.encode_codes(_place((3, 5), {}), _codebook(4), layout=_fixed("gaps", 15)),
    "tensor_all_pruned_bitmap": tensor_format.encode_codes(
        _place((3, 5), {}), _codebook(1), layout=_lanes(0, "bitmap")
    ),
    "tensor_all_pruned_all": tensor_format.encode_codes(_place((3, 5), {}), _codebook(1), layout=_fixed("all")),
    "tensor_one_survivor_first": _only((4, 300), 0, _fixed("gaps", 255)),
    "tensor_one_survivor_last": _only((4, 300), 1199, _lanes(6, escape=255)),
    "tensor_gap_of_the_escape": _only((2, 40), 15, _fixed("gaps", 15)),
    "tensor_scaled_all_rans_4": _scaled((17, 29), percent=100, layout=_lanes(2, "all")),
    "tensor_scaled_gaps_fixed": _scaled((17, 29), percent=20, layout=_fixed("gaps", 15)),
    "tensor_scaled_bitmap_blocks": _scaled((17, 29), percent=50, layout=_lanes(0, "bitmap", block=(1, 4))),
    "tensor_float32_all_rans_16": _exact(_floats, (17, 29), percent=100, layout=_lanes(4, "all")),
    "tensor_float32_gaps_rans_1": _exact(_floats, (17, 29), percent=20, layout=_lanes(0)),
    "tensor_float32_bitmap_blocks": _exact(_floats, (18, 29), percent=50, layout=_fixed("bitmap", block=(2, 1))),
    "tensor_float16_all_fixed": _exact(_halves, (17, 29), percent=100, layout=_fixed("all")),
    "tensor_float16_gaps_rans_64": _exact(_halves, (17, 29), percent=20, layout=_lanes(6)),
    "tensor_float16_bitmap_rans_1": _exact(_halves, (17, 29), percent=50, layout=_lanes(0, "bitmap")),
    "tensor_int8_all_rans_1": _exact(_bytes, (17, 29), percent=100, layout=_lanes(0, "all")),
    "tensor_int8_gaps_blocks": _exact(_bytes, (17, 29), percent=20, layout=_lanes(2, block=(16, 1))),
    "tensor_uint8_gaps_rans_4": _shifted((17, 29), percent=20, layout=_lanes(2)),
    "tensor_uint8_bitmap_fixed": _shifted((17, 29), percent=50, layout=_fixed("bitmap")),
    "tensor_one_column": _coded((517, 1), 16, percent=6, layout=_fixed("gaps", 63)),
}


def _write_tensors() -> None:
    """<name>.packed, <name>.dense (the stored type, row-major, little-endian), and the lists of both kinds."""
    lines = []
    for name, packed in TENSORS.items():
        dense, header = tensor_format.decode(packed), tensor_format.check(packed)
        (FOLDER / f"{name}.packed").write_bytes(packed)
        (FOLDER / f"{name}.dense").write_bytes(dense.tobytes())
        kinds = (*packed[5:8], header.rows, header.cols, header.block_rows, header.block_cols)
        counts = (header.num_units, header.num_values, header.escape, header.fill, header.codebook_size)
        lines.append(" ".join([name, *map(str, kinds + counts)]))
    (FOLDER / "tensor_manifest.txt").write_text("\n".join(lines) + "\n")
    refused = [f"{name.replace(' ', '_')} {packed.hex()}" for name, (packed, _) in REFUSED.items()]
    (FOLDER / "tensor_refused.txt").write_text("\n".join(refused) + "\n")


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
    _write_tensors()


if __name__ == "__main__":
    main()
