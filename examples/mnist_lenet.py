r"""LeNet-300-100 on MNIST: train, prune, quantize, pack, and run the file on the device runtime.

The network and the data are those of Han et al. 2015 (https://arxiv.org/abs/1506.02626, 12x fewer weights at
1.59 % error) and of Deep Compression (https://arxiv.org/abs/1510.00149, weights 40x smaller).

    python examples/mnist_lenet.py --seed 0 --out out/mnist --json out/mnist/result.json

Errors are in percent; weights exclude biases; `weights_kept` is counted in the packed file. The hyper-parameters were
chosen with `--validate`, which trains on the first 55 000 images, judges on the last 5 000 of the training set and
leaves the test set alone.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging

import keras_prune
import keras_prune_export as kpe
from keras_prune_export.files import write_atomic

_DATA = flags.DEFINE_string("data", None, "mnist.npz; by default keras.datasets.mnist (downloaded once).")
_OUT = flags.DEFINE_string("out", "out/mnist_lenet", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of initial weights and shuffling.")
_VALIDATE = flags.DEFINE_boolean("validate", False, "Judge on 5 000 held-out training images, not the test set.")
_DENSE_EPOCHS = flags.DEFINE_integer("dense_epochs", 20, "Epochs of dense training.", lower_bound=1)
_PRUNE_EPOCHS = flags.DEFINE_integer("prune_epochs", 60, "Epochs of pruning and fine-tuning.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Examples a step.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 0.1, "Initial learning rate of both phases; it falls to 0 along a cosine.")
_L2 = flags.DEFINE_float("l2", 1e-4, "L2 penalty of the kernels in dense training.")
_PRUNE_L2 = flags.DEFINE_float("prune_l2", 2e-4, "L2 penalty of the kernels while pruning and fine-tuning.")
_RAMP = flags.DEFINE_float("ramp", 0.6, "Share of the pruning steps in which sparsity rises.", 0, 1)
_DENSITY = flags.DEFINE_list("density", ["0.046", "0.095", "0.28"], "Share of weights kept in each layer.")
_BITS = flags.DEFINE_integer("bits", 5, "Bits of a code: each layer has 2**bits - 1 shared weights.")

Arrays = tuple[np.ndarray, np.ndarray]


def load_data() -> tuple[Arrays, Arrays]:
    """(train, judge) as flat float32 images in [0, 1] and int32 labels."""
    if _DATA.value:
        with np.load(_DATA.value) as data:
            train, test = (data["x_train"], data["y_train"]), (data["x_test"], data["y_test"])
    else:
        train, test = keras.datasets.mnist.load_data()
    if _VALIDATE.value:
        test = (train[0][55_000:], train[1][55_000:])
        train = (train[0][:55_000], train[1][:55_000])
    return _flatten(train), _flatten(test)


def _flatten(pair: Arrays) -> Arrays:
    return pair[0].reshape(len(pair[0]), -1).astype(np.float32) / 255, pair[1].astype(np.int32)


def lenet_300_100() -> keras.Model:
    """Three dense layers, 266 200 weights."""
    layers = [keras.layers.Dense(300, "relu"), keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((784,)), *layers])


def fit(model: keras.Model, train: Arrays, *, l2: float, callback: keras.callbacks.Callback | None = None) -> None:
    """One phase of training with a learning rate that falls to zero."""
    for layer in model.layers:
        layer.kernel.regularizer = keras.regularizers.L2(l2)
    epochs = _DENSE_EPOCHS.value if callback is None else _PRUNE_EPOCHS.value
    rate = keras.optimizers.schedules.CosineDecay(_RATE.value, epochs * steps_per_epoch(train))
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    callbacks = [] if callback is None else [callback]
    model.fit(*train, epochs=epochs, batch_size=_BATCH.value, verbose=2, callbacks=callbacks)


def steps_per_epoch(train: Arrays) -> int:
    """Batches of an epoch, the last one smaller."""
    return -(-len(train[0]) // _BATCH.value)


def pruning(model: keras.Model, train: Arrays) -> keras_prune.PruneCallback:
    """Magnitude pruning along a cubic ramp (Zhu and Gupta 2017), with a density for each layer."""
    sparsities = [1 - float(density) for density in _DENSITY.value]
    names = [layer.name for layer in model.layers]
    end_step = round(_RAMP.value * _PRUNE_EPOCHS.value * steps_per_epoch(train))
    return keras_prune.PruneCallback(
        keras_prune.PolynomialDecay(end_step=end_step),
        allocation=keras_prune.PerLayer(dict(zip(names, sparsities, strict=True))),
    )


def error_percent(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of wrong classes, in percent."""
    return 100 * float(np.mean(predictions.argmax(axis=1) != labels))


def main(argv: list[str]) -> None:
    """Trains, prunes, exports, judges."""
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(_SEED.value)
    train, test = load_data()
    model = lenet_300_100()
    logging.info("Dense training")
    fit(model, train, l2=_L2.value)
    dense_error = error_percent(model.predict(test[0], batch_size=1000, verbose=0), test[1])
    logging.info("Pruning and fine-tuning")
    fit(model, train, l2=_PRUNE_L2.value, callback=pruning(model, train))
    keras_prune.strip(model)
    keras_prune.sparsity_table(model)
    result = {"seed": _SEED.value, "dense_error": dense_error, **export(model, test, out)}
    print(json.dumps(result, indent=2))
    if _JSON.value:
        write_atomic(_JSON.value, json.dumps(result, indent=2).encode())


def export(model: keras.Model, test: Arrays, out: pathlib.Path) -> dict[str, Any]:
    """Writes the artifacts and judges the packed file on the device runtime."""
    weights = keras_prune.Codebook(bits=_BITS.value)
    quantized = keras_prune.quantize(model, weights)
    model.save(out / "model.keras")
    write_atomic(out / "model_float.tflite", kpe.convert(model))
    keras_prune.export_tflite(model, out / "model_packed.tflite", weights=weights)
    files = {"float32": out / "model_float.tflite", "packed": out / "model_packed.tflite"}
    comparison = keras_prune.compare_tflite(files, *test)
    print(comparison)
    packed = comparison["packed"]
    expected = quantized.predict(test[0], batch_size=1000, verbose=0).argmax(axis=1)
    return {
        "error": packed.error_percent,
        "weights_total": sum(layer.num_weights for layer in packed.layers),
        "weights_kept": packed.weights_kept,
        "float_bytes": comparison["float32"].num_bytes,
        "packed_bytes": packed.num_bytes,
        "prediction_mismatches": int(np.sum(packed.predictions != expected)),
        "latency_ms_float": comparison["float32"].latency_ms,
        "latency_ms_packed": packed.latency_ms,
    }


if __name__ == "__main__":
    app.run(main)
