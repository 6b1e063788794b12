"""The options of our fully connected operator: bytes and what they say (docs/format.md)."""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib

OPTIONS_VERSION = 1
_HEAD = struct.Struct("<BBBB")  # version, fused activation, flags, arithmetic
_KEEP_NUM_DIMS = 1
_FLOAT32, _DYNAMIC, _STATIC = range(3)


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
        """The operator's custom options: 8 bytes, or 12 with a scale."""
        arithmetic = _FLOAT32 if self.activations == "float32" else _DYNAMIC if self.x_scale is None else _STATIC
        head = _HEAD.pack(OPTIONS_VERSION, self.activation, _KEEP_NUM_DIMS if self.keep_num_dims else 0, arithmetic)
        scale = struct.pack("<f", self.x_scale) if arithmetic == _STATIC else b""
        return head + struct.pack("<I", zlib.crc32(head + scale)) + scale

    @classmethod
    def from_bytes(cls, data: bytes) -> Options:
        """Reads `to_bytes`'s result.

        Raises:
            ValueError: not such options, or damaged.
        """
        if len(data) not in (8, 12) or data[0] != OPTIONS_VERSION:
            raise ValueError(
                f"packed operator: expected 8 or 12 bytes of options of version {OPTIONS_VERSION}, got "
                f"{data[:12].hex()} ({len(data)} bytes); install a keras_prune that reads them"
            )
        _, activation, flags, arithmetic = _HEAD.unpack(data[:4])
        scale = struct.unpack("<f", data[8:])[0] if len(data) == 12 else None
        is_known = activation <= 3 and flags <= _KEEP_NUM_DIMS and arithmetic <= _STATIC
        has_scale = scale is not None and math.isfinite(scale) and scale > 0
        if not is_known or (arithmetic == _STATIC) != (scale is not None) or has_scale != (scale is not None):
            raise ValueError(
                f"packed operator: options {data.hex()} are not known; install a keras_prune that reads them"
            )
        if zlib.crc32(data[:4] + data[8:]) != struct.unpack("<I", data[4:8])[0]:
            raise ValueError("packed operator: the options' checksum does not match; export the model again")
        return cls(activation, bool(flags), "float32" if arithmetic == _FLOAT32 else "int8", scale)
