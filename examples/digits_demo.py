r"""The whole way in one minute, on scikit-learn's built-in digits: train, prune, quantize, pack, run, compare.

python examples/digits_demo.py --out out/demo
"""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_prune
import keras_prune_export as kpe
from keras_prune_export.files import check_folder, write_atomic
from keras_prune_export.layer_bytes import bytes_table

_OUT = flags.DEFINE_string("out", "out/demo", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the table's figures to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the split, the initial weights and shuffling.")

Arrays = tuple[np.ndarray, np.ndarray]


def load_data() -> tuple[Arrays, Arrays]:
    """1 347 training and 450 test images of 8 x 8 pixels, as flat float32 in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (images / 16).astype(np.float32), labels, random_state=_SEED.value, stratify=labels
    )
    return (x_train, y_train), (x_test, y_test)


def make_model() -> keras.Model:
    """The shape of LeNet-300-100, for 64 inputs."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(300, "relu"),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


class Progress(keras.callbacks.Callback):
    """A line every 20 epochs."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Prints the epoch's loss and accuracy."""
        if (epoch + 1) % 20 == 0:
            figures = logs or {}
            line = f"  epoch {epoch + 1}/{self.params['epochs']}: loss {figures['loss']:.4f}"
            sparsity = f", sparsity {figures['sparsity']:.1%}" if "sparsity" in figures else ""
            print(f"{line}, accuracy {figures['accuracy']:.2%}{sparsity}", flush=True)


def main(argv: list[str]) -> None:
    """Trains, prunes, exports, compares."""
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    if _JSON.value:
        pathlib.Path(_JSON.value).parent.mkdir(parents=True, exist_ok=True)
        check_folder(_JSON.value)  # now, not after the training
    keras.utils.set_random_seed(_SEED.value)
    train, test = load_data()
    model = make_model()
    print("Training the dense model (60 epochs) ...", flush=True)
    model.fit(*train, epochs=60, verbose=0, callbacks=[Progress()])
    print("Converting it to float32 and to full int8, calibrated on training images ...", flush=True)
    int8 = kpe.convert(model, optimize="int8", representative_data=train[0])
    files = {"float32 .tflite": kpe.convert(model), "int8 .tflite": int8}

    print("Pruning to 90 % while training on (120 epochs) ...", flush=True)
    schedule = keras_prune.PolynomialDecay(final_sparsity=0.9)
    model.fit(*train, epochs=120, verbose=0, callbacks=[keras_prune.PruneCallback(schedule), Progress()])
    keras_prune.strip(model)
    keras_prune.sparsity_table(model)

    print("Packing, and running all files on the device runtime ...", flush=True)
    files["keras_prune"] = keras_prune.export_tflite(model)
    files["keras_prune, int8"] = keras_prune.export_tflite(model, activations="int8")
    names = ("model_float", "model_int8", "model_packed", "model_packed_int8")
    for name, data in zip(names, files.values(), strict=True):
        write_atomic(out / f"{name}.tflite", data)
    model.save(out / "model.keras")
    comparison = keras_prune.compare_tflite(files, *test)
    print(f"\n{comparison}\n\n{bytes_table(comparison['keras_prune'].sizes)}\n")
    report = out / "report.json"
    write_atomic(report, json.dumps(comparison.to_dict(), indent=2).encode())
    if _JSON.value:
        write_atomic(_JSON.value, report.read_bytes())
    print(f"The files and the report are in {out.resolve()} (report.json, model_packed.tflite, ...).")


if __name__ == "__main__":
    app.run(main)
