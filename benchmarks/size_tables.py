r"""Bytes of AlexNet and VGG-16 at the densities of Han et al. 2015, by how they are stored, beside the papers' figures.

    python benchmarks/size_tables.py --json out/bench/size_tables.json

The weights are not the papers': every weight is kept or pruned at random with its layer's density, and every kept one
is drawn from the same Laplace distribution, all independent and from one seed. So the entropy is known, and the last
line (log2 of the number of ways to place the kept weights, the empirical entropy of the codes, the codebooks) is what
no coder of such weights gets below. The weights of trained networks are not independent, and the papers' own entropy
is not published: what may be compared with their figures is the arithmetic of the storage, not the last percent.

Biases are left out (42 KB of AlexNet, 54 KB of VGG-16: 0.6 and 0.4 % of the coded sizes). Each coded layer is decoded
again and compared.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import time

import numpy as np
from absl import app, flags

from keras_prune import quantization, sparse_format, tensor_format
from keras_prune_export.files import write_atomic

_OUT = flags.DEFINE_string("out", "out/bench", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of positions and weights.")
_SCALE = flags.DEFINE_float("scale", 1.0, "Share of each layer's outputs; below 1 for a quick try only.", 0.0, 1.0)

CONV_BITS, DENSE_BITS = 8, 5  # of a code: Han et al. 2016, "Deep Compression", for both networks
GAP_BITS = 5  # of the relative index in Han et al. 2015


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its weights as (outputs, weights of each), and the share that Han et al. 2015 kept."""

    name: str
    outputs: int
    inputs: int
    density: float

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return DENSE_BITS if self.name.startswith("fc") else CONV_BITS


def _layers(shapes: dict[str, tuple[int, int]], percent: str) -> tuple[Layer, ...]:
    densities = [int(share) / 100 for share in percent.split()]
    return tuple(Layer(name, *shape, share) for (name, shape), share in zip(shapes.items(), densities, strict=True))


def _vgg_shapes() -> dict[str, tuple[int, int]]:
    """Channels of the 13 convolutions of 3 x 3, and the three dense layers."""
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    names = "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1 5_2 5_3".split()
    convolutions = zip(names, channels[:-1], channels[1:], strict=True)
    shapes = {f"conv{name}": (outputs, inputs * 9) for name, inputs, outputs in convolutions}
    return shapes | {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (1000, 4096)}


ALEXNET = {  # Caffe's, with conv2, conv4 and conv5 in two groups
    "conv1": (96, 3 * 11 * 11),
    "conv2": (256, 48 * 5 * 5),
    "conv3": (384, 256 * 3 * 3),
    "conv4": (384, 192 * 3 * 3),
    "conv5": (256, 192 * 3 * 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
# Kept weights in percent: Han et al. 2015, tables 4 and 5.
NETWORKS = {
    "AlexNet": _layers(ALEXNET, "84 38 35 37 37 9 9 25"),
    "VGG-16": _layers(_vgg_shapes(), "58 22 34 36 53 24 42 32 27 34 35 29 36 4 4 23"),
}
DENSE, IDEAL_GAPS, GAPS, FIXED, CODED, BOUND = ROWS = (
    "dense float32",
    "pruned, 32-bit weights, 5-bit gaps, no fillers",
    "pruned, 32-bit weights, 5-bit gaps",
    "pruned and quantized, fixed widths (format 1)",
    "entropy-coded (format 2)",
    "entropy bound",
)
# Rates of compression: Han et al. 2015 (with the index) and Han et al. 2016 (without and with Huffman coding).
PUBLISHED = {
    "AlexNet": {IDEAL_GAPS: 7.8, FIXED: 27.0, CODED: 35.0},
    "VGG-16": {FIXED: 31.0, CODED: 49.0},
}


def draw(layer: Layer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Codes and codebook of a layer of independent weights: (outputs, inputs) uint8, (size,) float32."""
    mask = np.empty((layer.outputs, layer.inputs), bool)
    for row in mask:
        row[:] = rng.random(layer.inputs, np.float32) < layer.density
    values = rng.laplace(size=np.count_nonzero(mask)).astype(np.float32)
    kept_codes, codebook = quantization.Codebook(layer.code_bits).fit(values)
    codes = np.zeros(mask.shape, np.uint8)
    codes[mask] = kept_codes
    return codes, codebook


def bound_bytes(codes: np.ndarray, codebook: np.ndarray) -> float:
    """log2 C(n, k) bits for the positions, the empirical entropy of the kept codes, and the codebook.

    Args:
        codes: (rows, cols) uint8, code 0 pruned.
        codebook: (size,) float32; its zero is not counted.
    """
    counts = np.zeros(256, np.int64)
    for row in codes:
        counts += np.bincount(row, minlength=256)
    counts = counts[1:][counts[1:] > 0]
    num, kept = codes.size, int(counts.sum())
    ways = math.lgamma(num + 1) - math.lgamma(kept + 1) - math.lgamma(num - kept + 1)
    entropy_bits = float((counts * np.log2(kept / counts)).sum())
    return (ways / math.log(2) + entropy_bits) / 8 + 4 * (len(codebook) - 1)


def gap_bytes(codes: np.ndarray) -> tuple[float, float]:
    """Bytes of 32-bit weights with 5-bit gaps: without the fillers for larger gaps, and with them."""
    runs = np.diff(np.flatnonzero(codes), prepend=-1) - 1
    entry_bits = 32 + GAP_BITS
    return len(runs) * entry_bits / 8, (len(runs) + int((runs >> GAP_BITS).sum())) * entry_bits / 8


def measure(layer: Layer, rng: np.random.Generator) -> dict[str, float]:
    """Bytes of one layer by each way to store it."""
    codes, codebook = draw(layer, rng)
    packed = tensor_format.encode_codes(codes, codebook)
    decoded, _ = tensor_format.decode_codes(packed)
    if not np.array_equal(decoded, codes):
        raise AssertionError(f"{layer.name}: the decoded codes differ")
    ideal, with_fillers = gap_bytes(codes)
    sizes = (4 * codes.size, ideal, with_fillers, len(sparse_format.encode(codes, codebook)), len(packed))
    return dict(zip(ROWS, (*sizes, bound_bytes(codes, codebook)), strict=True))


def scaled(layer: Layer, scale: float) -> Layer:
    """The layer with a share of its outputs."""
    return dataclasses.replace(layer, outputs=max(1, round(layer.outputs * scale)))


def network_table(name: str, scale: float, seed: int) -> dict[str, dict[str, float]]:
    """Bytes of each layer and of the total by each way to store them; prints a line a layer."""
    rng = np.random.default_rng(seed)
    table: dict[str, dict[str, float]] = {}
    print(
        f"{name}: bytes by layer\n  {'':8} {'weights':>11} {'kept':>6} {'format 1':>10} {'format 2':>10} {'bound':>10}"
    )
    for layer in NETWORKS[name]:
        start = time.perf_counter()
        sizes = table[layer.name] = measure(scaled(layer, scale), rng)
        columns = f"{sizes[DENSE] / 4:11.0f} {layer.density:6.0%} {sizes[FIXED]:10.0f} {sizes[CODED]:10.0f}"
        seconds = time.perf_counter() - start
        print(f"  {layer.name:8} {columns} {sizes[BOUND]:10.0f}  ({seconds:.0f} s)", flush=True)
    table["total"] = {row: sum(sizes[row] for sizes in table.values()) for row in ROWS}
    return table


def print_totals(name: str, total: dict[str, float]) -> None:
    """The table of one network."""
    print(f"\n{name + ', totals':47} {'KB':>10} {'x smaller':>9} {'published':>9} {'x bound':>8}")
    for row in ROWS:
        published = PUBLISHED[name].get(row)
        rate = f"{total[DENSE] / total[row]:9.1f} {published or '':>9}"
        print(f"  {row:45} {total[row] / 1000:10.1f} {rate} {total[row] / total[BOUND]:8.4f}")
    print(flush=True)


def main(argv: list[str]) -> None:
    """Prints the tables of both networks."""
    del argv
    print(
        f"Independent Laplace weights at random positions, seed {_SEED.value}, with the densities of Han et al. 2015; "
        f"k-means codebooks\nof {CONV_BITS} bits (convolutions) and {DENSE_BITS} bits (dense layers) as in Han et al. "
        "2016. Not the papers' weights.\n"
    )
    figures = {}
    for name in NETWORKS:
        figures[name] = network_table(name, _SCALE.value, _SEED.value)
        print_totals(name, figures[name]["total"])
    target = pathlib.Path(_JSON.value or pathlib.Path(_OUT.value) / "size_tables.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = {"seed": _SEED.value, "scale": _SCALE.value, "weights": "i.i.d. Laplace at random positions"}
    result = {"settings": settings, "bytes": figures, "published rates": PUBLISHED}
    write_atomic(target, json.dumps(result, indent=2).encode())
    print(f"written to {target}")


if __name__ == "__main__":
    app.run(main)
