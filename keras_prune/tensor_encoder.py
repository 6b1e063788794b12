"""From a matrix of codes, or of bits, to the bytes of a version 2 buffer. NumPy only."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from keras_prune import entropy_coding, position_coding, value_coding
from keras_prune.sparse_format import CRC_OFFSET, MAGIC, MAX_WEIGHTS
from keras_prune.symbol_frequencies import symbol_counts
from keras_prune.tensor_header import ELEMENTS, HEADER, POSITIONS, VALUES, VERSION
from keras_prune.tensor_layout import Layout, best_layout
from keras_prune.unit_grid import UnitGrid

_CHUNK = 1 << 22  # weights looked at at once: bounds the temporary memory


def packed(
    raw: np.ndarray,
    values: str,
    *,
    element: str = "float32",
    fill: int = 0,
    table: bytes = b"",
    codebook_size: int = 0,
    layout: Layout | None = None,
) -> bytes:
    """The buffer of a matrix.

    Args:
        raw: (rows, cols) uint8, uint16 or uint32: codes, or the bits of the stored type.
        values: "codebook", "scaled" or "split".
        element: the stored type.
        fill: what of ``raw`` marks a pruned weight.
        table: bytes of the codebook or of the scales.
        codebook_size: values in the codebook, 0 without.
        layout: how kept weights are found; by default what needs the fewest bytes.

    Returns:
        The packed buffer.

    Raises:
        ValueError: it would have 4 GiB or more.
    """
    raw = np.ascontiguousarray(raw)
    mask = raw != fill
    pruned = value_coding.symbols_and_low(np.array([fill], raw.dtype))
    layout = layout or best_layout(
        mask, _kept_counts(raw, mask), pruned_symbol=int(pruned[0][0]), low_bytes=len(pruned[1])
    )
    grid = UnitGrid.of(raw.shape, layout.block)
    kept = grid.kept(mask)
    symbols, low = _stored(raw, grid, kept if layout.positions != "all" else np.ones_like(kept))
    num_units = grid.num_units if layout.positions == "all" else int(np.count_nonzero(kept))
    body = table + _encoded_positions(kept, layout) + _stream(symbols, layout) + low.tobytes()
    num_bytes = HEADER.size + len(body)
    if num_bytes > MAX_WEIGHTS:
        raise ValueError(f"values: the packed buffer would need {num_bytes} bytes, over the format's 4 GiB")
    kinds = (POSITIONS.index(layout.positions), VALUES.index(values), ELEMENTS.index(element))
    sizes = (*raw.shape, grid.block_rows, grid.block_cols, num_units, layout.escape, fill, codebook_size, num_bytes)
    head = HEADER.pack(MAGIC, VERSION, *kinds, *sizes, 0)
    return head[:CRC_OFFSET] + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def _kept_counts(raw: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How often each symbol occurs among the weights that are not pruned, (256,) int64."""
    counts = np.zeros(256, np.int64)
    flat, kept = raw.reshape(-1), mask.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK][kept[start : start + _CHUNK]]
        counts += symbol_counts(value_coding.symbols_and_low(part)[0])
    return counts


def _stored(raw: np.ndarray, grid: UnitGrid, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and low bytes of all weights of the kept units, in the order of the format."""
    flat = raw.reshape(-1)
    parts = [(np.zeros(0, np.uint8), np.zeros(0, np.uint8))]
    for start in range(0, len(kept), _CHUNK):
        units = np.flatnonzero(kept[start : start + _CHUNK]) + start
        parts += [value_coding.symbols_and_low(flat[chunk]) for chunk in grid.weights(units)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _encoded_positions(kept: np.ndarray, layout: Layout) -> bytes:
    if layout.positions == "all":
        return b""
    if layout.positions == "gaps":
        return _stream(position_coding.gap_symbols(kept, layout.escape), layout)
    return _stream(position_coding.bitmap_symbols(kept), layout)


def _stream(symbols: np.ndarray, layout: Layout) -> bytes:
    return entropy_coding.encode(symbols, coder=layout.coder, lane_bits=layout.lane_bits)
