"""Energy of an inference, by Han's table."""

from __future__ import annotations

import dataclasses

# Picojoules in a 45 nm process (Han, Pool, Tran, Dally 2015, table 1): operations of 32-bit floats, and one 32-bit word
# read from an SRAM of 32 KB or from DRAM. A write is taken to cost what a read does.
ADD_PJ = 0.9
MULTIPLY_PJ = 3.7
SRAM_WORD_PJ = 5.0
DRAM_WORD_PJ = 640.0
_WORD_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What an inference computes and moves.

    Attributes:
        macs: multiply-accumulates.
        flops: all operations, two for each multiply-accumulate.
        weight_bytes: of all weights, as they are stored.
        weight_bytes_read: in the inference: a shared layer's weights in each of its calls.
        activation_bytes: read and written by each call.
    """

    macs: int
    flops: int
    weight_bytes: int
    weight_bytes_read: float
    activation_bytes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy of one inference in picojoules.

    Attributes:
        macs_pj: multiply-accumulates: one multiplication and one addition each.
        flops_pj: other operations, each taken as an addition.
        weights_pj: reading the weights.
        activations_pj: reading and writing what the layers compute.
        weight_bytes: of all weights.
        sram_bytes: size of the SRAM.
        weights_fit: whether the weights fit it, and are read from there.
    """

    macs_pj: float
    flops_pj: float
    weights_pj: float
    activations_pj: float
    weight_bytes: int
    sram_bytes: int
    weights_fit: bool

    @property
    def total_pj(self) -> float:
        """All together."""
        return self.macs_pj + self.flops_pj + self.weights_pj + self.activations_pj

    def __str__(self) -> str:
        """One line for each cause, in microjoules."""
        place = "SRAM" if self.weights_fit else "DRAM"
        names = ("multiply-accumulates", "other operations", f"weights from {place}", "activations", "total")
        values = (self.macs_pj, self.flops_pj, self.weights_pj, self.activations_pj, self.total_pj)
        texts = [f"{value / 1e6:,.3f} µJ" for value in values]
        wide = max(map(len, texts))
        lines = [f"{name:22}{text:>{wide}}" for name, text in zip(names, texts, strict=True)]
        fits = "fit" if self.weights_fit else "do not fit"
        return "\n".join([*lines, f"weights of {self.weight_bytes:,} bytes {fits} {self.sram_bytes:,} bytes of SRAM"])


def make_energy(traffic: Traffic, sram_bytes: int) -> Energy:
    """Picojoules by cause.

    Raises:
        ValueError: ``sram_bytes`` is not positive, or there are less than 0 bytes of weights.
    """
    if not sram_bytes > 0:
        raise ValueError(f"sram_bytes: expected the bytes of the SRAM, > 0, got {sram_bytes!r}")
    if not traffic.weight_bytes >= 0:
        raise ValueError(f"weight_bytes: expected the bytes of all weights, >= 0, got {traffic.weight_bytes!r}")
    fit = traffic.weight_bytes <= sram_bytes
    return Energy(
        macs_pj=traffic.macs * (ADD_PJ + MULTIPLY_PJ),
        flops_pj=(traffic.flops - 2 * traffic.macs) * ADD_PJ,
        weights_pj=_moved(traffic.weight_bytes_read, fit),
        activations_pj=sum(_moved(num_bytes, num_bytes <= sram_bytes) for num_bytes in traffic.activation_bytes),
        weight_bytes=traffic.weight_bytes,
        sram_bytes=sram_bytes,
        weights_fit=fit,
    )


def _moved(num_bytes: float, in_sram: bool) -> float:
    return num_bytes / _WORD_BYTES * (SRAM_WORD_PJ if in_sram else DRAM_WORD_PJ)
