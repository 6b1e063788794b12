"""Weights as symbols: what of a stored weight is entropy-coded, and what is kept as it is. NumPy only.

The exponents of trained weights take a few values only, their mantissas and signs are noise: of a float32 the eight
bits of the exponent are a symbol and the other 24 bits are stored, of a float16 the high byte is.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 22  # weights looked at once: bounds the temporary memory


def as_float16(values: np.ndarray) -> np.ndarray | None:
    """The float32 values as float16 where every bit comes back (a NaN's may not on all processors: none are taken)."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    halves = np.empty(flat.shape, np.float16)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            halves[start : start + _CHUNK] = part
        back = halves[start : start + _CHUNK].astype(np.float32)
        if np.isnan(part).any() or (back.view(np.uint32) != part.view(np.uint32)).any():
            return None
    return halves.reshape(values.shape)


def few_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and codebook of a float32 matrix that has at most 255 values beside +0.0, else nothing."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
    patterns = np.zeros(1, np.uint32)
    for start in range(0, len(flat), _CHUNK):
        patterns = np.union1d(patterns, flat[start : start + _CHUNK])
        if len(patterns) > 256:
            return None
    codebook = patterns.view(np.float32)
    if not np.isfinite(codebook).all():
        return None
    codes = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), _CHUNK):
        codes[start : start + _CHUNK] = np.searchsorted(patterns, flat[start : start + _CHUNK])
    return codes.reshape(values.shape), codebook


def symbols_and_low(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symbols of stored weights, (n,) uint8, and their low bytes, (n * low bytes,) uint8."""
    if raw.dtype == np.uint8:
        return raw, np.zeros(0, np.uint8)
    if raw.dtype == np.uint16:
        return (raw >> 8).astype(np.uint8), raw.astype(np.uint8)
    low = (raw & 0x7FFFFF) | (raw >> 31 << 23)
    return (raw >> 23).astype(np.uint8), low.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1)


def joined(symbols: np.ndarray, low: np.ndarray, itemsize: int) -> np.ndarray:
    """The inverse of `symbols_and_low`: unsigned integers of ``itemsize`` bytes."""
    if itemsize == 1:
        return symbols
    if itemsize == 2:
        return symbols.astype(np.uint16) << 8 | low
    padded = np.zeros((len(symbols), 4), np.uint8)
    padded[:, :3] = low.reshape(-1, 3)
    bits = padded.reshape(-1).view("<u4").astype(np.uint32)
    return (bits & 0x7FFFFF) | symbols.astype(np.uint32) << 23 | bits >> 23 << 31
