r"""Float32 against int8 activations of a network's packed file: test error and difference, as a Markdown table.

    python examples/mnist_lenet.py --dense_epochs 6 --prune_epochs 14 --out out/lenet
    python benchmarks/int8_activations.py --model out/lenet/model.keras [--data mnist.npz]
    python benchmarks/int8_activations.py --model out/demo/model.keras

A model of 64 inputs is that of `make demo`, on scikit-learn's digits. Scales are calibrated on 300 training images.
"""

from __future__ import annotations

import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_prune
from keras_prune import Codebook
from keras_prune_export import activation_kinds

_DATA = flags.DEFINE_string("data", None, "mnist.npz; by default keras.datasets.mnist (downloaded once).")
_MODEL = flags.DEFINE_string("model", None, "A pruned model of the demo or of examples/mnist_lenet.py.", required=True)
_CALIBRATION = 300

Arrays = tuple[np.ndarray, np.ndarray]


def digits() -> tuple[np.ndarray, Arrays]:
    """Training images, and the test set, of `make demo`."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, _, y_test = train_test_split(
        (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0, stratify=labels
    )
    return x, (x_test, y_test)


def mnist(shape: tuple[int, ...]) -> tuple[np.ndarray, Arrays]:
    """The last 5 000 training images, and the test set."""
    if _DATA.value:
        with np.load(_DATA.value) as data:
            x, x_test, y_test = data["x_train"], data["x_test"], data["y_test"]
    else:
        (x, _), (x_test, y_test) = keras.datasets.mnist.load_data()
    first, second = [values.reshape(-1, *shape).astype(np.float32) / 255 for values in (x[55_000:], x_test)]
    return first, (second, y_test)


def rows(model: keras.Model, weights: Codebook | None, calibration: np.ndarray, *, test: Arrays) -> list[str]:
    """A row for each kind of activations."""
    x, y = test
    data = keras_prune.export_tflite(model, weights=weights, activations="int8", representative_data=calibration)
    files = activation_kinds.variants(data)
    outputs = {kind: keras_prune.predict_tflite(file, x) for kind, file in files.items()}
    want, found = outputs[activation_kinds.FLOAT32], []
    for kind, got in outputs.items():
        difference = np.abs(got - want) / np.abs(want).max()
        changed = np.count_nonzero(got.argmax(axis=1) != want.argmax(axis=1))
        wrong = np.mean(got.argmax(axis=1) != y)
        differences = f"{difference.max():.2%} | {np.sqrt(np.mean(np.square(difference))):.2%}"
        found.append(f"| {weights} | {kind} | {100 * wrong:.2f} | {changed} of {len(y)} | {differences} |")
    return found


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    model = keras.saving.load_model(_MODEL.value, compile=False)
    shape = model.input_shape[1:]
    train, test = digits() if shape == (64,) else mnist(shape)
    print("| weights | activations | test error, % | answers changed | largest difference | rms |")
    print("|---|---|--:|--:|--:|--:|")
    for weights in (None, Codebook(8), Codebook(5)):
        print("\n".join(rows(model, weights, train[:_CALIBRATION], test=test)), flush=True)


if __name__ == "__main__":
    app.run(main)
