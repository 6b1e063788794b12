"""The options of our fully connected operator: bytes and what they say (docs/format.md)."""

from __future__ import annotations

import dataclasses
import struct
import zlib

from keras_prune_export.targets import arithmetic

_PLAIN = struct.Struct("<BBBB")  # version, fused activation, flags, arithmetic; then the CRC-32 of these
_STATIC = struct.Struct("<BBHf")  # version, activation and flags, 16 bits of the CRC-32 of the others, one step of x
_KEEP_NUM_DIMS = 1
_BYTES = 8
_LONG, _LONG_STATIC = 12, 2  # version 1 once had the step of x at the end, and this arithmetic: it is read still


@dataclasses.dataclass(frozen=True)
class Options:
    """What one operator computes.

    Attributes:
        activation: fused activation, 0 to 3, numbered as in TFLite's schema.
        keep_num_dims: keep the leading dimensions of the input.
        activations: "float32", or "int8": rows of x are quantized to int8, and so is the codebook.
        x_scale: of int8 activations: one step of x, exactly a float32 above 0; None: of each row's largest value.
    """

    activation: int = 0
    keep_num_dims: bool = False
    activations: str = "float32"
    x_scale: float | None = None

    def to_bytes(self) -> bytes:
        """The operator's custom options, 8 bytes."""
        keep = _KEEP_NUM_DIMS if self.keep_num_dims else 0
        version = arithmetic.version(self.activations, self.x_scale)
        if version == arithmetic.PLAIN:
            head = _PLAIN.pack(version, self.activation, keep, arithmetic.KINDS.index(self.activations))
            return head + struct.pack("<I", zlib.crc32(head))
        data = _STATIC.pack(version, self.activation | keep << 2, 0, self.x_scale)
        return data[:2] + struct.pack("<H", _static_checksum(data)) + data[4:]

    @classmethod
    def from_bytes(cls, data: bytes) -> Options:
        """Reads `to_bytes`'s result.

        Raises:
            ValueError: not such options, or damaged.
        """
        is_long = len(data) == _LONG and data[0] == arithmetic.PLAIN
        if not is_long and (len(data) != _BYTES or data[0] not in (arithmetic.PLAIN, arithmetic.STATIC)):
            raise ValueError(
                f"packed operator: expected {_BYTES} bytes of options of version {arithmetic.PLAIN} or "
                f"{arithmetic.STATIC}, got {data[:_BYTES].hex()} ({len(data)} bytes); install a keras_prune that reads "
                "them"
            )
        made, checksum = _plain(data) if data[0] == arithmetic.PLAIN else _static(data)
        if made is None:
            raise ValueError(
                f"packed operator: options {data.hex()} are not known; install a keras_prune that reads them"
            )
        if not checksum:
            raise ValueError("packed operator: the options' checksum does not match; export the model again")
        return made


def _plain(data: bytes) -> tuple[Options | None, bool]:
    """The options, None where a byte is not known, and whether the checksum is right."""
    _, activation, flags, kind = _PLAIN.unpack(data[:4])
    right = zlib.crc32(data[:4] + data[8:]) == struct.unpack("<I", data[4:8])[0]
    if len(data) == _LONG:
        scale = arithmetic.read_scale(data[8:])
        known = activation <= 3 and flags <= _KEEP_NUM_DIMS and kind == _LONG_STATIC and scale is not None
        return (Options(activation, bool(flags), "int8", scale) if known else None), right
    if activation > 3 or flags > _KEEP_NUM_DIMS or kind >= len(arithmetic.KINDS):
        return None, right
    return Options(activation, bool(flags), arithmetic.KINDS[kind]), right


def _static(data: bytes) -> tuple[Options | None, bool]:
    """As `_plain`, of version 2."""
    _, flags, checksum, _ = _STATIC.unpack(data)
    scale = arithmetic.read_scale(data[4:])
    made = None if flags >> 3 or scale is None else Options(flags & 3, bool(flags >> 2), "int8", scale)
    return made, checksum == _static_checksum(data)


def _static_checksum(data: bytes) -> int:
    return zlib.crc32(data[:2] + data[4:]) & 0xFFFF
