r"""How well criteria rank units: Spearman's correlation with the oracle, as in table 1 of Molchanov et al. 2017.

    python benchmarks/spearman.py --data DATA/fashion_mnist.npz --out out/spearman \
        --json docs/figures/spearman_fashion.json --figure docs/figures/spearman_fashion.png
    python benchmarks/spearman.py --flowers DATA/flowers --model out/flowers/dense_seed0.keras --units 12 \
        --examples 320 --out out/spearman_flowers --json docs/figures/spearman_flowers.json \
        --figure docs/figures/spearman_flowers.png

Without --model a VGG-like network of 288 units is trained on Fashion-MNIST, or taken from --out if it is there; the
flowers' network is the dense one of examples/flowers_transfer.py. The oracle removes one unit after the other and
judges --examples training images each time; the criteria observe the same images. A run that was broken off goes on
from the files in --out (the flags must be the same, but for --units). The ranks by layer are drawn beside the figure,
as NAME_ranks.png. Some variants of criteria are compared, too. With --gather the criteria observe another
number of images than the oracle; with --compare OUT/changes.json of another run the two oracles are compared.

Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference"
(https://arxiv.org/abs/1611.06440).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging

import keras_prune
from keras_prune.analysis import CRITERIA, Oracle, correlate
from keras_prune.criteria import MutualInformation, Taylor
from keras_prune.criteria.mutual_information import mutual_information
from keras_prune.graph import dependencies
from keras_prune_export.files import write_atomic

_DATA = flags.DEFINE_string("data", None, "fashion_mnist.npz; by default keras.datasets.fashion_mnist (downloaded).")
_FLOWERS = flags.DEFINE_string("flowers", None, "Instead: the folder with train/CLASS/*.jpg, for a network of --model.")
_MODEL = flags.DEFINE_string("model", None, "A trained network; by default one is trained on Fashion-MNIST.")
_OUT = flags.DEFINE_string("out", "out/spearman", "Where the network and the oracle's measurements go.")
_JSON = flags.DEFINE_string("json", None, "Where the table goes; by default OUT/spearman.json.")
_FIGURE = flags.DEFINE_string("figure", None, "Where the picture goes; by default OUT/spearman.png.")
_EXAMPLES = flags.DEFINE_integer("examples", 2000, "Training images that the oracle and the criteria see.")
_UNITS = flags.DEFINE_integer("units", None, "Units of each group that the oracle removes, evenly spread; None: all.")
_GATHER = flags.DEFINE_integer("gather", None, "Training images that the criteria observe; None: the oracle's.")
_COMPARE = flags.DEFINE_string("compare", None, "OUT/changes.json of another run of the same network.")
_EPOCHS = flags.DEFINE_integer("epochs", 6, "Epochs of training.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of initial weights and shuffling.")

Arrays = tuple[np.ndarray, np.ndarray]
_BATCH = 128
_RATE = 1e-3  # Adam's; it falls along a cosine


@dataclasses.dataclass(frozen=True)
class TaylorSum(Taylor):
    """The sum over the map in place of the mean: the first-order change of the loss itself."""

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """(batch, units)."""
        return keras.ops.sum(activation * gradient, axis=tuple(axes))


@dataclasses.dataclass(frozen=True)
class TaylorAbsoluteInMap(Taylor):
    """Absolute values already within the map."""

    def observe(self, activation: Any, gradient: Any, axes: Sequence[int]) -> Any:
        """(batch, units)."""
        return keras.ops.mean(keras.ops.abs(activation * gradient), axis=tuple(axes))


@dataclasses.dataclass(frozen=True)
class TaylorSquared(Taylor):
    """Squares in place of absolute values."""

    def average(self, observed: Any) -> Any:
        """(units,)."""
        return keras.ops.mean(keras.ops.square(observed), axis=0)


@dataclasses.dataclass(frozen=True)
class TaylorOfBatch(Taylor):
    """The absolute value of each batch's mean, not of each example."""

    def average(self, observed: Any) -> Any:
        """(units,)."""
        return keras.ops.abs(keras.ops.mean(observed, axis=0))


@dataclasses.dataclass(frozen=True)
class MutualInformationInLayer(MutualInformation):
    """Bins of equal widths over the values of the whole layer, in place of each unit's own of equal counts."""

    def score_examples(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(units,)."""
        width = max(np.ptp(values) / self.bins, np.finfo(np.float32).tiny)
        places = np.minimum(((values - values.min()) / width).astype(int), self.bins - 1)
        return np.array([mutual_information(column, labels) for column in places.T], np.float32)


VARIANTS = (
    *(TaylorSum(), TaylorAbsoluteInMap(), TaylorSquared(), TaylorOfBatch()),
    *(MutualInformationInLayer(), MutualInformationInLayer(bins=32)),
)


def vgg() -> keras.Model:
    """Pairs of 3x3 convolutions and max-pooling, two dense layers: 288 units, and the 10 classes."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1))], name="vgg")
    options: dict[str, Any] = {"activation": "relu", "kernel_initializer": "he_normal"}
    for block, width in enumerate((16, 32, 64), 1):
        for number in (1, 2):
            model.add(layers.Conv2D(width, 3, padding="same", name=f"conv{block}_{number}", **options))
        model.add(layers.MaxPooling2D(name=f"pool{block}"))
    model.add(layers.Flatten())
    model.add(layers.Dense(64, name="fc1", **options))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10, name="fc2"))
    return model


def fashion() -> tuple[Arrays, Arrays]:
    """(train, test) as float32 images in [0, 1] and int32 labels."""
    if _DATA.value:
        with np.load(_DATA.value) as data:
            pairs = [(data[f"x_{part}"], data[f"y_{part}"]) for part in ("train", "test")]
    else:
        pairs = list(keras.datasets.fashion_mnist.load_data())
    train, test = ((x[..., None].astype(np.float32) / 255, y.astype(np.int32)) for x, y in pairs)
    return train, test


def flowers(size: int, number: int) -> tuple[Arrays, Arrays]:
    """(train, val): photos as the network takes them, `number` training ones evenly spread over the classes."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
    data: Any = importlib.import_module("flowers_data")
    train, judge = data.load(pathlib.Path(_FLOWERS.value))
    chosen = np.linspace(0, len(train[0]) - 1, min(number, len(train[0]))).round().astype(int)
    return (data.whole(train[0][chosen], size), train[1][chosen]), (data.whole(judge[0], size), judge[1])


def trained(path: pathlib.Path, train: Arrays) -> keras.Model:
    """The network, trained, or from the file if it is there."""
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(_SEED.value)
    model = vgg()
    steps = _EPOCHS.value * -(-len(train[0]) // _BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_RATE, steps))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(*train, batch_size=_BATCH, epochs=_EPOCHS.value, verbose=2)
    model.save(path)
    return model


def criteria_for(model: keras.Model) -> list[Any]:
    """All criteria of units; that of batch normalisation where each unit has one; the variants."""
    groups = dependencies(model).free
    return [*CRITERIA, *(["batch_norm_scale"] if all(group.scales for group in groups) else []), *VARIANTS]


def main(argv: list[str]) -> None:
    """Measures, and draws."""
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    if _FLOWERS.value:
        model = keras.saving.load_model(_MODEL.value)
        train, test = flowers(model.input_shape[1], _EXAMPLES.value)
        observed = flowers(model.input_shape[1], _GATHER.value)[0] if _GATHER.value else train
    else:
        train, test = fashion()
        model = keras.saving.load_model(_MODEL.value) if _MODEL.value else trained(out / "dense.keras", train)
        number = _GATHER.value or _EXAMPLES.value
        observed = (train[0][:number], train[1][:number])
    seen = (train[0][: _EXAMPLES.value], train[1][: _EXAMPLES.value])
    scores = {
        name: model.evaluate(*part, batch_size=64, verbose=0, return_dict=True)
        for name, part in (("seen", seen), ("test", test))
    }
    logging.info("%s", scores)
    oracle = keras_prune.oracle(model, seen, units_per_group=_UNITS.value, resume=out / "oracle.json")
    print(oracle)
    oracle.save(out / "changes.json")
    if _COMPARE.value:
        compare(oracle, Oracle.load(_COMPARE.value))
    found = keras_prune.rank_correlation(model, observed, criteria=criteria_for(model), oracle=oracle)
    print(found)
    save(found, scores, out)


def compare(oracle: Oracle, other: Oracle) -> None:
    """How well two oracles agree on the units that both have measured: what any criterion can reach at best."""
    agreement = correlate(oracle, {"the other oracle": other.importance()}).criteria
    found = agreement["the other oracle"]
    print(f"the other oracle: {found.per_layer:.2f} per layer, {found.overall:.2f} over all layers")


def save(found: Any, scores: dict[str, dict[str, float]], out: pathlib.Path) -> None:
    """The table as JSON, the correlations and the oracle's ranks as pictures."""
    settings = {
        "examples": _EXAMPLES.value,
        "gather": _GATHER.value,
        "units_per_group": _UNITS.value,
        "seed": _SEED.value,
    }
    model = {name: {key: round(value, 4) for key, value in each.items()} for name, each in scores.items()}
    content = {"settings": settings, "model": model, "units": found.oracle.num_units, "criteria": found.to_dict()}
    write_atomic(_JSON.value or out / "spearman.json", (json.dumps(content, indent=1) + "\n").encode())
    path = pathlib.Path(_FIGURE.value or out / "spearman.png")
    found.figure().savefig(path, dpi=110)
    found.oracle.figure().savefig(path.with_name(f"{path.stem}_ranks{path.suffix}"), dpi=110)


if __name__ == "__main__":
    app.run(main)
