"""What a packed SavedModel holds of one variable: positions and values, deflated, for stock TensorFlow to expand."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Sequence

import numpy as np

from keras_prune.int8 import Int8
from keras_prune.kernel_axes import OutputAxes, from_rows, to_rows
from keras_prune.quantization import Codebook
from keras_prune_export.schemes import Scheme

_STEP = 256  # weights that one byte of gaps can pass
_MAX_CODES = 256
_FUNCTION_BYTES = 1000  # of the graph, for each kind that it has to expand
_MAX_SIZE = 2**31  # positions are int32 in the graph
_SAMPLE = 1 << 18  # bytes that the way to deflate is chosen on
# Level and strategy. Huffman coding alone is best for positions and codes at random, matches for patterns of zeros.
_WAYS = ((9, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_DEFAULT_STRATEGY), (1, zlib.Z_RLE), (0, zlib.Z_DEFAULT_STRATEGY))


@dataclasses.dataclass(frozen=True)
class Kind:
    """What decides how a variable is expanded; one function in the graph for each kind.

    Attributes:
        positions: "all", "gaps" (a byte for each stored value: the zeros before it), or "bitmap" (a bit a weight).
        values: "codes" into a table, "exact" bytes, or "scaled" int8 codes with a scale a channel.
        stored: dtype of exact values in the file.
        dtype: of the variable.
    """

    positions: str
    values: str
    stored: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class Stored:
    """One variable, or several small ones in a row, as the asset holds it.

    Attributes:
        kind: how to expand it.
        shape: of the variable.
        count: stored values: kept weights and fillers.
        channels: for "scaled": how many weights stand between one scale and the next, and the number of scales.
        data: a zlib stream of positions, values and table.
    """

    kind: Kind
    shape: tuple[int, ...]
    count: int
    channels: tuple[int, int]
    data: bytes


@dataclasses.dataclass(frozen=True)
class Weights:
    """A variable's values as the server will have them.

    Attributes:
        values: the dense array, in the variable's dtype.
        stored: dtype that holds every value exactly, maybe a smaller one.
        codes: for Int8: (shape) int8; None otherwise.
        scales: for Int8: float32, one for each of the combined dimensions ``axes``.
        axes: first and last axis that the scales count, not negative.
    """

    values: np.ndarray
    stored: str
    codes: np.ndarray | None = None
    scales: np.ndarray | None = None
    axes: tuple[int, int] = (0, 0)


def quantize(values: np.ndarray, scheme: Scheme, output_axes: OutputAxes = -1) -> Weights:
    """Gives a variable the values of a scheme. Zeros stay exactly zero.

    Args:
        values: a variable's values, any shape.
        scheme: `Codebook`, `Int8`, "float16" or "lossless".
        output_axes: the axes that count outputs; `Int8` has one scale for each.

    Returns:
        What the server will compute with.

    Raises:
        ValueError: a value does not fit in float16.
    """
    if isinstance(scheme, Codebook):
        codes, codebook = scheme.fit(values.astype(np.float32))
        return Weights(codebook.astype(values.dtype)[codes], str(values.dtype))
    if isinstance(scheme, Int8):
        return _int8(values, scheme, output_axes)
    if scheme == "float16":
        with np.errstate(over="ignore"):  # said below
            halves = values.astype(np.float16)
        if not np.isfinite(halves.astype(np.float32)).all():
            raise ValueError("a value does not fit in float16; give this weight another scheme, such as 'lossless'")
        return Weights(halves.astype(values.dtype), "float16" if values.dtype.itemsize > 2 else str(values.dtype))
    return Weights(values, str(values.dtype))


def _int8(values: np.ndarray, scheme: Int8, output_axes: OutputAxes) -> Weights:
    """Scales for each combination of the axes from the first to the last one that counts outputs."""
    rows = to_rows(values.astype(np.float32), output_axes)
    codes, scales = scheme.fit(rows)
    axes = sorted(axis % values.ndim for axis in np.atleast_1d(output_axes))
    every = from_rows(np.broadcast_to(scales[:, None], rows.shape), values.shape, output_axes)
    index = tuple(slice(None) if axes[0] <= axis <= axes[-1] else 0 for axis in range(values.ndim))
    coded = from_rows(codes, values.shape, output_axes)
    dense = (coded.astype(np.float32) * every).astype(values.dtype)
    return Weights(dense, str(values.dtype), coded, np.ascontiguousarray(every[index]).ravel(), (axes[0], axes[-1]))


def candidates(weights: Weights) -> list[Stored]:
    """All ways to store a variable that may be the smallest.

    Args:
        weights: from `quantize`.

    Returns:
        One or more; each holds the same values.

    Raises:
        ValueError: 2**31 weights or more, or numbers of 16 bytes.
    """
    values = weights.values
    if values.size >= _MAX_SIZE or values.dtype.itemsize > 8:
        raise ValueError(
            f"expected fewer than 2**31 weights of up to 8 bytes in one variable, got {values.size} of {values.dtype}; "
            "split the layer"
        )
    if weights.codes is None:
        kept = np.ascontiguousarray(values).reshape(-1).view(_unsigned(values.dtype)) != 0
    else:
        kept = weights.codes.reshape(-1) != 0
    where = np.flatnonzero(kept)
    found = (_stored(weights, positions, where) for positions in _positions(len(where), values))
    return list(itertools.chain(*found))


def exact(weights: Weights) -> Stored:
    """Stores all bytes of a variable as they are, deflated."""
    every = _stored(weights, "all", np.arange(weights.values.size))
    return next(stored for stored in every if stored.kind.values == "exact")


def choose(variables: Sequence[list[Stored]]) -> list[Stored]:
    """Chooses a candidate for each variable, so that all are smallest together with the functions that expand them.

    Args:
        variables: the candidates of each.

    Returns:
        The chosen one of each.
    """
    kinds = {stored.kind for stored in itertools.chain(*variables)}
    best = _smallest(variables, kinds)
    while best is not None:
        used = {stored.kind for stored in best}
        fewer = [_smallest(variables, used - {kind}) for kind in sorted(used, key=dataclasses.astuple)]
        smaller = min((option for option in fewer if option is not None), key=_num_bytes, default=best)
        if _num_bytes(smaller) >= _num_bytes(best):
            break
        best = smaller
    return best or []


def _smallest(variables: Sequence[list[Stored]], kinds: set[Kind]) -> list[Stored] | None:
    """The smallest of each variable with these kinds only; None where one has no candidate left."""
    allowed = [[stored for stored in options if stored.kind in kinds] for options in variables]
    return [min(options, key=lambda s: len(s.data)) for options in allowed] if all(allowed) else None


def _num_bytes(chosen: list[Stored]) -> int:
    return sum(len(stored.data) for stored in chosen) + _FUNCTION_BYTES * len({stored.kind for stored in chosen})


def _positions(kept: int, values: np.ndarray) -> list[str]:
    """What may be smallest: no gaps in nearly dense weights, nothing but gaps in very sparse ones."""
    size = values.size
    if kept == size or values.dtype == bool:
        return ["all"]
    gaps = ["gaps"] if kept <= 0.6 * size else []
    bitmap = ["bitmap"] if kept >= 0.05 * size or size <= _SAMPLE else []
    every = ["all"] if kept >= 0.3 * size or size <= _SAMPLE else []
    return gaps + bitmap + every


def _stored(weights: Weights, positions: str, where: np.ndarray) -> list[Stored]:
    """The candidates with these positions."""
    size = weights.values.size
    if positions == "all":
        where, head = np.arange(size), b""
        fill = np.ones(size, bool)
    elif positions == "bitmap":
        bitmap = np.zeros(size, np.uint8)
        bitmap[where] = 1
        head, fill = np.packbits(bitmap, bitorder="little").tobytes(), np.ones(len(where), bool)
    else:
        gaps, fill = _gaps(where)
        head = gaps.tobytes()
    result = []
    for name, symbols, table in _values(weights, where, fill):
        kind = Kind(positions, name, weights.stored if name == "exact" else "", str(weights.values.dtype))
        data = deflate([head, symbols, table])
        result.append(Stored(kind, weights.values.shape, len(fill), _channels(weights), data))
    return result


def _gaps(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A byte for each entry: the zeros since the one before; and which entries are weights, not fillers."""
    zeros = np.diff(where, prepend=-1) - 1
    last = np.cumsum(zeros // _STEP + 1) - 1
    count = int(last[-1]) + 1 if len(last) else 0
    gaps, fill = np.full(count, _STEP - 1, np.uint8), np.zeros(count, bool)
    gaps[last], fill[last] = zeros % _STEP, True
    return gaps, fill


def _values(weights: Weights, where: np.ndarray, fill: np.ndarray) -> list[tuple[str, bytes, bytes]]:
    """Ways to hold the values at some positions: name, symbols, table."""
    if weights.codes is not None and weights.scales is not None:
        entries = _spread(weights.codes.reshape(-1)[where], fill)
        return [("scaled", entries.tobytes(), weights.scales.tobytes())]
    values = np.ascontiguousarray(weights.values).reshape(-1)[where]
    entries = _spread(values, fill)
    found = []
    if values.dtype.kind != "b":
        bits = entries.view(_unsigned(entries.dtype))
        if len(np.unique(bits[: 4 * _MAX_CODES])) <= _MAX_CODES:  # a look at a few saves sorting all
            table, codes = np.unique(bits, return_inverse=True)
            if len(table) <= _MAX_CODES:
                found.append(("codes", codes.astype(np.uint8).tobytes(), table.tobytes()))
                if len(entries) > _SAMPLE:
                    return found  # bytes of the numbers themselves would be longer
    exact = entries.astype(_dtype(weights.stored))
    planes = exact.view(np.uint8).reshape(-1, exact.dtype.itemsize).T  # alike bytes side by side deflate better
    return [*found, ("exact", planes.tobytes(), b"")]


def _spread(values: np.ndarray, fill: np.ndarray) -> np.ndarray:
    entries = np.zeros(len(fill), values.dtype)
    entries[fill] = values
    return entries


def _channels(weights: Weights) -> tuple[int, int]:
    if weights.scales is None:
        return (1, 1)
    return (int(np.prod(weights.values.shape[weights.axes[1] + 1 :], dtype=np.int64)), len(weights.scales))


def _unsigned(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"u{dtype.itemsize}")


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 (comes with TensorFlow)

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def deflate(sections: list[bytes]) -> bytes:
    """One zlib stream of all sections, each deflated in the way that suits it.

    Args:
        sections: any bytes.

    Returns:
        The stream, with its Adler-32 of all sections.
    """
    parts = [section for section in sections if section] or [b""]
    pieces = [_deflated(part, last=index == len(parts) - 1) for index, part in enumerate(parts)]
    checksum = 1
    for part in parts:
        checksum = zlib.adler32(part, checksum)
    return b"".join([b"\x78\xda", *pieces, checksum.to_bytes(4, "big")])


def _deflated(section: bytes, *, last: bool) -> bytes:
    sample = section[:_SAMPLE]
    best = min(_WAYS, key=lambda way: len(_piece(sample, way, last=last)))
    return _piece(section, best, last=last)


def _piece(section: bytes, way: tuple[int, int], *, last: bool) -> bytes:
    """Raw deflate; what is not the last piece ends at a byte, with no end mark."""
    level, strategy = way
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return stream.compress(section) + stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
