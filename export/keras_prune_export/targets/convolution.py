"""The options of our convolution: bytes and what they say (docs/format.md)."""

from __future__ import annotations

import dataclasses
import struct
import zlib

from keras_prune_export.targets import arithmetic

# version, fused activation, padding, arithmetic; then heights before widths: kernel, strides, dilations; reserved
_PLAIN = struct.Struct("<4B6B2x")
_STATIC = struct.Struct("<2B6Bf")  # version, activation and padding; the same sizes; one step of x
_BYTES = 16  # with the CRC-32 of the others
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
        activations: "float32", or "int8": patches of the images are quantized to int8, and so is the codebook.
        x_scale: of int8 activations: one step of x, exactly a float32 above 0; None: of each patch's largest value.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "same"
    activation: int = 0
    activations: str = "float32"
    x_scale: float | None = None

    def to_bytes(self) -> bytes:
        """The operator's custom options, 16 bytes."""
        sizes = (*self.kernel, *self.strides, *self.dilations)
        padding, version = PADDINGS.index(self.padding), arithmetic.version(self.activations, self.x_scale)
        if version == arithmetic.PLAIN:
            kind = arithmetic.KINDS.index(self.activations)
            head = _PLAIN.pack(version, self.activation, padding, kind, *sizes)
        else:
            head = _STATIC.pack(version, self.activation | padding << 2, *sizes, self.x_scale)
        return head + struct.pack("<I", zlib.crc32(head))

    @classmethod
    def from_bytes(cls, data: bytes) -> Options:
        """Reads `to_bytes`'s result.

        Raises:
            ValueError: not such options, or damaged.
        """
        if len(data) != _BYTES or data[0] not in (arithmetic.PLAIN, arithmetic.STATIC):
            raise ValueError(
                f"packed convolution: expected {_BYTES} bytes of options of version {arithmetic.PLAIN} or "
                f"{arithmetic.STATIC}, got {data[:_BYTES].hex()} ({len(data)} bytes); install a keras_prune that reads "
                "them"
            )
        made = _plain(data) if data[0] == arithmetic.PLAIN else _static(data)
        if made is None:
            raise ValueError(
                f"packed convolution: options {data.hex()} are not known; install a keras_prune that reads them"
            )
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise ValueError("packed convolution: the options' checksum does not match; export the model again")
        return made

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


def _plain(data: bytes) -> Options | None:
    """None where a byte is not known."""
    _, activation, padding, kind, *sizes = _PLAIN.unpack(data[:-4])
    known = activation <= 3 and padding < len(PADDINGS) and kind < len(arithmetic.KINDS) and data[10:12] == bytes(2)
    return _made(sizes, padding, activation, activations=arithmetic.KINDS[kind]) if known else None


def _static(data: bytes) -> Options | None:
    """As `_plain`, of version 2."""
    _, flags, *sizes, _ = _STATIC.unpack(data[:-4])
    scale = arithmetic.read_scale(data[8:12])
    known = not flags >> 3 and scale is not None
    return _made(sizes, flags >> 2, flags & 3, activations="int8", x_scale=scale) if known else None


def _made(
    sizes: list[int], padding: int, activation: int, *, activations: str, x_scale: float | None = None
) -> Options | None:
    if not all(sizes):
        return None
    kernel, strides, dilations = ((sizes[i], sizes[i + 1]) for i in (0, 2, 4))
    return Options(kernel, strides, dilations, PADDINGS[padding], activation, activations, x_scale)
