"""The options of our convolution: bytes and what they say (docs/format.md)."""

from __future__ import annotations

import dataclasses
import struct
import zlib

OPTIONS_VERSION = 1
# version, fused activation, padding, reserved; then heights before widths: kernel, strides, dilations; reserved
_HEAD = struct.Struct("<4B6B2x")
LARGEST = 255  # of a kernel's side, a stride, a dilation
PADDINGS = ("same", "valid")  # numbered as in TFLite's schema


@dataclasses.dataclass(frozen=True)
class Options:
    """What one operator computes.

    Attributes:
        kernel: height and width, 1 to `LARGEST` each, as the next two.
        strides: vertical and horizontal.
        dilations: vertical and horizontal.
        padding: one of `PADDINGS`.
        activation: fused activation, 0 to 3, numbered as in TFLite's schema.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "same"
    activation: int = 0

    def to_bytes(self) -> bytes:
        """The operator's custom options, 16 bytes."""
        sizes = (*self.kernel, *self.strides, *self.dilations)
        head = _HEAD.pack(OPTIONS_VERSION, self.activation, PADDINGS.index(self.padding), 0, *sizes)
        return head + struct.pack("<I", zlib.crc32(head))

    @classmethod
    def from_bytes(cls, data: bytes) -> Options:
        """Reads `to_bytes`'s result.

        Raises:
            ValueError: not such options, or damaged.
        """
        if len(data) != _HEAD.size + 4 or data[0] != OPTIONS_VERSION:
            raise ValueError(
                f"packed convolution: expected {_HEAD.size + 4} bytes of options of version {OPTIONS_VERSION}, got "
                f"{data[:16].hex()} ({len(data)} bytes); install a keras_prune that reads them"
            )
        _, activation, padding, reserved, *sizes = _HEAD.unpack(data[:-4])
        if activation > 3 or padding >= len(PADDINGS) or reserved or data[10:12] != bytes(2) or not all(sizes):
            raise ValueError(
                f"packed convolution: options {data.hex()} are not known; install a keras_prune that reads them"
            )
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise ValueError("packed convolution: the options' checksum does not match; export the model again")
        kernel, strides, dilations = ((sizes[i], sizes[i + 1]) for i in (0, 2, 4))
        return cls(kernel, strides, dilations, PADDINGS[padding], activation)

    def weights_shape(self, rows: int, cols: int) -> tuple[int, int, int, int]:
        """Of the dense weights, as TFLite has them: (output channels, kernel height, kernel width, input channels).

        Args:
            rows: of the packed matrix.
            cols: likewise.

        Raises:
            ValueError: a patch of the image has no such number of values.
        """
        taps = self.kernel[0] * self.kernel[1]
        if cols % taps:
            raise ValueError(
                f"packed convolution: expected packed weights of {self.kernel[0]} x {self.kernel[1]} x channels "
                f"columns, got {cols}; the file is damaged, export the model again"
            )
        return rows, *self.kernel, cols // taps
