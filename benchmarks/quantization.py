r"""Bytes and test error of a pruned MNIST network under every scheme of weights, as a Markdown table.

    python examples/mnist_lenet.py --dense_epochs 6 --prune_epochs 14 --out out/lenet
    python benchmarks/quantization.py --model out/lenet/model.keras [--data mnist.npz]

Accuracy is that of the files on the device runtime. Bits by layer are chosen on the last 5 000 training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from absl import app, flags

import keras_prune
from keras_prune import Codebook, Int8

_DATA = flags.DEFINE_string("data", None, "mnist.npz; by default keras.datasets.mnist (downloaded once).")
_MODEL = flags.DEFINE_string("model", None, "A pruned model that examples/mnist_lenet.py saved.", required=True)
_CALIBRATION = 300

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(shape: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    """The last 5 000 training examples and the test set, images in [0, 1]."""
    if _DATA.value:
        with np.load(_DATA.value) as data:
            train, test = (data["x_train"], data["y_train"]), (data["x_test"], data["y_test"])
    else:
        train, test = keras.datasets.mnist.load_data()
    pairs = [(train[0][55_000:], train[1][55_000:]), test]
    first, second = [(x.reshape(-1, *shape).astype(np.float32) / 255, y.astype(np.int32)) for x, y in pairs]
    return first, second


def files(model: keras.Model, held_out: Arrays) -> Iterator[tuple[str, str, bytes]]:
    """(target, what, file) for each scheme."""
    calibration = held_out[0][:_CALIBRATION]
    int8: dict[str, Any] = {"activations": "int8", "representative_data": calibration}
    stock: dict[str, dict[str, Any]] = {
        "None": {},
        '"float16"': {"weights": "float16"},
        "Int8()": {"weights": Int8()},
        "Int8(), int8 activations": int8,
    }
    for name, options in stock.items():
        yield "stock", name, keras_prune.export_tflite(model, target="stock", **options)
    packed: dict[str, dict[str, Any]] = {
        '"lossless"': {"weights": "lossless"},
        '"float16"': {"weights": "float16"},
        "Int8()": {"weights": Int8()},
        "Int8(), int8 activations": {**int8, "weights": Int8()},
        "None": {},
        **{f"Codebook({bits})": {"weights": Codebook(bits)} for bits in (8, 6, 5, 4, 3, 2)},
        **{f"Codebook({bits}, optimum=True)": {"weights": Codebook(bits, optimum=True)} for bits in (6, 5, 4, 3, 2)},
    }
    for name, options in packed.items():
        yield "packed", name, keras_prune.export_tflite(model, **options)
    for bits in (3, 2):
        weights = Codebook(bits)
        corrected = keras_prune.quantize(model, weights, data=calibration)
        yield "packed", f"Codebook({bits}), biases corrected", keras_prune.export_tflite(corrected, weights=weights)
    chosen = keras_prune.choose_bits(model, held_out, accuracy_drop=0.0005)
    print(chosen)
    name = f"choose_bits(accuracy_drop=0.0005): {', '.join(str(chosen.bits[path]) for path in chosen.options)} bits"
    yield "packed", name, keras_prune.export_tflite(model, weights=chosen)


def main(argv: list[str]) -> None:
    """Prints a row for each file."""
    del argv
    model = keras.saving.load_model(_MODEL.value)
    held_out, (x, y) = load_data(model.input_shape[1:])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    rows = ["| target | weights | bytes | test error, % |", "|---|---|--:|--:|"]
    for target, name, data in files(model, held_out):
        wrong = np.mean(keras_prune.predict_tflite(data, x).argmax(axis=1) != y)
        rows.append(f"| {target} | {name} | {len(data):,} | {100 * wrong:.2f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
